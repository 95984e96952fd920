"""Ingest: takes commands (create, cancel, delete, abandon), decides them and appends them to the log."""
