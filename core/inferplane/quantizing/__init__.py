"""Writes quantised checkpoints from others; loads torch and, for perplexity, an engine."""
