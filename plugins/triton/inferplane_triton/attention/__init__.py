"""Attention backends over the shared kernels."""
