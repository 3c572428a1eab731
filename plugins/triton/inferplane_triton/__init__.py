"""Inferplane plugin: shared Triton kernels for GPU plugins."""
