"""Quantized products that AMD's matrix instructions have and the shared kernels do not use."""
