"""The quantization formats the core offers, through the same door as anybody's."""

from __future__ import annotations

from inferplane.hookspecs import Register, hookimpl

__all__ = ["INTERFACE_VERSION", "register_quantization_formats"]

INTERFACE_VERSION = (1, 0)


@hookimpl
def register_quantization_formats(register: Register) -> None:
    register("awq", "inferplane.quantization.awq:Awq")
    register("bitsandbytes", "inferplane.quantization.bitsandbytes:BitsAndBytes")
    register("compressed-tensors", "inferplane.quantization.compressed_tensors:CompressedTensors")
    register("fp8", "inferplane.quantization.fp8:Fp8")
    register("gguf", "inferplane.quantization.gguf:Gguf")
    register("gptq", "inferplane.quantization.gptq:Gptq")
    register("torchao", "inferplane.quantization.torchao:TorchAo")
    register("online", "inferplane.quantization.online:Online")
