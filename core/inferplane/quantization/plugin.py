"""The quantization formats the core offers, through the same door as anybody's."""

from __future__ import annotations

from inferplane.hookspecs import Register, hookimpl

__all__ = ["INTERFACE_VERSION", "register_quantization_formats"]

INTERFACE_VERSION = (1, 0)


@hookimpl
def register_quantization_formats(register: Register) -> None:
    """None yet: GGUF blocks are dequantised while they are loaded."""
