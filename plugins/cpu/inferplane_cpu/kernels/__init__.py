"""Kernels of the CPU plugin."""
