"""What this distribution offers: register lines only."""

from inferplane.hookspecs import Register, hookimpl

INTERFACE_VERSION = (1, 1)


@hookimpl
def register_platforms(register: Register) -> None:
    register("tpu", "inferplane_tpu.platform:Tpu")


@hookimpl
def register_attention(register: Register) -> None:
    on = ("tpu",)
    register("ragged", "inferplane_tpu.attention.ragged:RaggedAttention", on=on)
    register("gathered", "inferplane_tpu.attention.paged:GatheredAttention", on=on)


@hookimpl
def register_quantization_kernels(register: Register) -> None:
    register("tpu_integers", "inferplane_tpu.quantization.int8:IntegerWeights", on=("tpu",))
