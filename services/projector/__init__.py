"""projector: writes closed responses to `responses` and `transcripts`, and says each end in `closings`."""
