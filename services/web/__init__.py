"""HTTP: the server, streams, errors and forwarding that the services share."""
