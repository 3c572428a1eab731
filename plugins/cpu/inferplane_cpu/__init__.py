"""Inferplane plugin: x86 processors with AVX2, AVX-512 or AMX."""
