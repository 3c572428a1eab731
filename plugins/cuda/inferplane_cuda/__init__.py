"""Inferplane plugin: NVIDIA GPUs."""
