"""Kernels compiled ahead and side by side, in processes that know Triton and nothing else."""
