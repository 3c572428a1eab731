"""Encoders as graphs of ONNX Runtime, where the option `encoder` asks for it."""
