"""Inferplane plugin: Intel GPUs."""
