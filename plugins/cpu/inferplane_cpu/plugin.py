"""What this distribution offers: register lines only."""

from inferplane.hookspecs import Register, hookimpl

INTERFACE_VERSION = (1, 0)


@hookimpl
def register_platforms(register: Register) -> None:
    register("cpu", "inferplane_cpu.platform:Cpu")


@hookimpl
def register_attention(register: Register) -> None:
    register("native", "inferplane_cpu.attention.native:NativeAttention", on=("cpu",), priority=20)
    register("paged", "inferplane_cpu.attention.paged:PagedAttention", on=("cpu",), priority=10)


@hookimpl
def register_kernels(register: Register) -> None:
    register("rms_norm/1", "inferplane_cpu.kernels.ops:rms_norm", on=("cpu",))
    register("add_rms_norm/1", "inferplane_cpu.kernels.ops:add_rms_norm", on=("cpu",))
    register("rotary/1", "inferplane_cpu.kernels.ops:rotary", on=("cpu",))
    register("silu_mul/1", "inferplane_cpu.kernels.ops:silu_mul", on=("cpu",))
    register("gelu_mul/1", "inferplane_cpu.kernels.ops:gelu_mul", on=("cpu",))
    register("embedding/1", "inferplane_cpu.kernels.ops:embedding", on=("cpu",))
    register("linear/1", "inferplane_cpu.kernels.ops:linear", on=("cpu",))
    register("logits/1", "inferplane_cpu.kernels.ops:logits", on=("cpu",))
    register("fused_moe/1", "inferplane_cpu.kernels.ops:fused_moe", on=("cpu",))
    register("sample/1", "inferplane_cpu.kernels.sampling:sample", on=("cpu",))


@hookimpl
def register_quantization_kernels(register: Register) -> None:
    register("cpu_native", "inferplane_cpu.quantization.native:NativeLinear", on=("cpu",))
