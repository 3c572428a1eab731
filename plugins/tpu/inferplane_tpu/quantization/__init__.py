"""Weights in 8 bits on TPUs: codes stay codes, and XLA widens them where it multiplies."""
