"""projector: closed responses into the views `responses` and `transcripts`."""
