"""Requests that come as lines of a file and take the same way as all others."""
