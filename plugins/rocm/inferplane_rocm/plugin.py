"""What this distribution offers: register lines only."""

from inferplane.hookspecs import Register, hookimpl

INTERFACE_VERSION = (1, 0)


@hookimpl
def register_platforms(register: Register) -> None:
    register("rocm", "inferplane_rocm.platform:Rocm")


@hookimpl
def register_quantization_kernels(register: Register) -> None:
    register("rocm_fp8", "inferplane_rocm.quantization.fp8:ScaledFp8", on=("rocm",), priority=20)
