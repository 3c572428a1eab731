"""Attention through vendors' and others' packages, where they are installed."""
