"""Quantised multiplication by kernels in CUDA C++."""
