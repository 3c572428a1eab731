"""What this distribution offers: register lines only."""

from inferplane.hookspecs import Register, hookimpl

INTERFACE_VERSION = (1, 0)


@hookimpl
def register_platforms(register: Register) -> None:
    register("gaudi", "inferplane_gaudi.platform:Gaudi")


@hookimpl
def register_attention(register: Register) -> None:
    register("gaudi_flat", "inferplane_gaudi.attention.flat:FlatAttention", on=("gaudi",))


@hookimpl
def register_quantization_kernels(register: Register) -> None:
    register("gaudi_fp8", "inferplane_gaudi.quantization.fp8:ScaledFp8", on=("gaudi",))
    register("gaudi_fp8_ocp", "inferplane_gaudi.quantization.fp8:OcpFp8", on=("gaudi",))
