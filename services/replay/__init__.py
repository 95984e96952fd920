"""Replay: serves clients streams and objects of responses, from the tail, the log by seek, and transcripts.

It is the front door as well: it hands commands over to ingest.
"""
