"""Attention backends of the CPU plugin."""
