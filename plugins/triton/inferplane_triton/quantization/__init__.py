"""Quantised multiplication: one QuantKernel class a scheme."""
