"""`inferplane quantize`, part by part."""
