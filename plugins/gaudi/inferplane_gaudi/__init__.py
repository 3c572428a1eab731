"""Inferplane plugin: Intel Gaudi."""
