"""What this distribution offers: register lines only."""

from inferplane.hookspecs import Register, hookimpl

INTERFACE_VERSION = (1, 1)

_KERNELS = "inferplane_triton.kernels."


@hookimpl
def register_attention(register: Register) -> None:
    register("triton", "inferplane_triton.attention.paged:PagedAttention", on=("triton",))


@hookimpl
def register_kernels(register: Register) -> None:
    on = ("triton",)
    register("rms_norm/1", _KERNELS + "norm:rms_norm", on=on)
    register("add_rms_norm/1", _KERNELS + "norm:add_rms_norm", on=on)
    register("rotary/1", _KERNELS + "rotary:rotary", on=on)
    register("norm_rotary/1", _KERNELS + "rotary:norm_rotary", on=on)
    register("silu_mul/1", _KERNELS + "activation:silu_mul", on=on)
    register("gelu_mul/1", _KERNELS + "activation:gelu_mul", on=on)
    register("linear/1", _KERNELS + "linear:LINEAR", on=on)
    register("add_norm_linear/1", _KERNELS + "fused:ADD_NORM_LINEAR", on=on)
    register("silu_mul_linear/1", _KERNELS + "fused:SILU_MUL_LINEAR", on=on)
    register("moe_topk/1", _KERNELS + "experts:moe_topk", on=on)
    register("fused_moe/1", _KERNELS + "experts:fused_moe", on=on)
    register("sample/1", _KERNELS + "sampling:SAMPLE", on=on)


@hookimpl
def register_quantization_kernels(register: Register) -> None:
    on = ("triton",)
    path = "inferplane_triton.quantization."
    register("triton_scaled_fp8", path + "scaled:ScaledFp8", on=on, priority=10)
    register("triton_int8", path + "int8:Int8Activations", on=on, priority=10)
    register("triton_weight_only", path + "weight_only:WeightOnly", on=on)
