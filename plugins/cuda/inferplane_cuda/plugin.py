"""What this distribution offers: register lines only."""

from inferplane.hookspecs import Register, hookimpl

INTERFACE_VERSION = (1, 0)


@hookimpl
def register_platforms(register: Register) -> None:
    register("cuda", "inferplane_cuda.platform:Cuda")


@hookimpl
def register_attention(register: Register) -> None:
    register("cuda", "inferplane_cuda.attention.taped:TapedAttention", on=("cuda",))
    register("coded", "inferplane_cuda.attention.coded:CodedAttention", on=("cuda",))
    register("flashinfer", "inferplane_cuda.attention.flashinfer:FlashInferAttention", on=("cuda",))


@hookimpl
def register_kernels(register: Register) -> None:
    on = ("cuda",)
    register("logits/1", "inferplane_cuda.kernels.logits:LOGITS", on=on)
    path = "inferplane_cuda.persistent.ops:"
    register("rms_norm/1", path + "rms_norm", on=on, priority=10)
    register("add_rms_norm/1", path + "add_rms_norm", on=on, priority=10)
    register("rotary/1", path + "rotary_embedding", on=on, priority=10)
    register("norm_rotary/1", path + "norm_rotary", on=on, priority=10)
    register("silu_mul/1", path + "silu_mul", on=on, priority=10)
    register("linear/1", path + "LINEAR", on=on, priority=10)
    register("add_norm_linear/1", path + "ADD_NORM_LINEAR", on=on, priority=10)
    register("silu_mul_linear/1", path + "SILU_MUL_LINEAR", on=on, priority=10)


@hookimpl
def register_quantization_kernels(register: Register) -> None:
    on = ("cuda",)
    path = "inferplane_cuda.quantization.kernels:"
    register("cuda_streamed_fp8", path + "StreamedFp8", on=on, priority=20)
    register("cuda_streamed_int8", path + "StreamedInt8", on=on, priority=20)
    register("cuda_streamed_weights", path + "StreamedWeights", on=on, priority=20)
