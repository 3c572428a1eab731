"""Inferplane plugin: Google TPUs."""
