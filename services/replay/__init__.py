"""replay: streams and snapshots of responses, from the tail, the log by seek, and the transcripts."""
