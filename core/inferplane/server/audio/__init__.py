"""Recordings in requests: from their bytes to what was said."""
