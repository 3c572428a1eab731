"""Kernels that only this vendor's libraries give."""
