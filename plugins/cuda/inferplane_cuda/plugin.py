"""What this distribution offers: register lines only."""

from inferplane.hookspecs import Register, hookimpl

INTERFACE_VERSION = (1, 0)


@hookimpl
def register_platforms(register: Register) -> None:
    register("cuda", "inferplane_cuda.platform:Cuda")


@hookimpl
def register_attention(register: Register) -> None:
    register("flashinfer", "inferplane_cuda.attention.flashinfer:FlashInferAttention", on=("cuda",))


@hookimpl
def register_kernels(register: Register) -> None:
    register("logits/1", "inferplane_cuda.kernels.logits:LOGITS", on=("cuda",))


@hookimpl
def register_quantization_kernels(register: Register) -> None:
    on = ("cuda",)
    path = "inferplane_cuda.quantization.kernels:"
    register("cuda_streamed_fp8", path + "StreamedFp8", on=on, priority=20)
    register("cuda_streamed_int8", path + "StreamedInt8", on=on, priority=20)
    register("cuda_streamed_weights", path + "StreamedWeights", on=on, priority=20)
