"""Quantized multiplication of the CPU plugin."""
