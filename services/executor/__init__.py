"""The executor: claims accepted responses, calls their model or agent, appends every event."""
