"""Kernels in plain triton.language: no torch, no vendor library, no assumption on warp width.

Launchers with the catalogue's signatures are in `inferplane_triton.kernels`. One legend for all
files here: T tokens, N heads, K KV heads, H head size, D model, I inner, R rows, V vocabulary.
Upper-case arguments are compile-time constants.
"""
