"""Ingest: takes commands (create, cancel, delete) from clients and appends them to the log."""
