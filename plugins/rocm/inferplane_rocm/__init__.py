"""Inferplane plugin: AMD GPUs."""
