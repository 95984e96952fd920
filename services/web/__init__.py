"""HTTP: the server, streams, errors, and what the services ask each other."""
