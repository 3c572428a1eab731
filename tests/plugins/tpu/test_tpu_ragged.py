"""The ragged attention's arguments by the kit's scenes, through torch_xla's twin of its kernel.

The twin is plain torch and takes exactly what the Pallas kernel takes. It is called on the host:
called on XLA tensors it gave another first row in some scenes, with arguments that read back equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec

import pytest

pytest.importorskip("torch_xla", reason="needs torch_xla: scripts/test-tpu twin")

from torch import Tensor

from inferplane.interfaces import AttentionSpec, Capabilities, DeviceRuntime, Reasons
from inferplane.testing.conformance.attention import AttentionConformance
from inferplane.testing.conformance.state import KitState
from inferplane_tpu.attention.ragged import RaggedAttention
from inferplane_tpu.tiling import PALLAS

HAS_JAX = find_spec("jax") is not None
pytestmark = pytest.mark.skipif(not HAS_JAX, reason="torch_xla's twin asks for jax")


class Twin(RaggedAttention):
    """On any device, without the kernel."""

    use_kernel = False

    def __init__(self, spec: AttentionSpec, device: DeviceRuntime) -> None:
        super().__init__(spec, device)
        self._run = on_host(self._run)

    @classmethod
    def supports(cls, spec: AttentionSpec, caps: Capabilities) -> Reasons:
        return super().supports(spec, replace(caps, labels=(PALLAS,)))


def on_host(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The operator over copies of its arguments in host memory."""
    from torch_xla.experimental.custom_kernel import ragged_paged_attention

    def call(*arrays: Tensor, **settings: object) -> Tensor:
        made: Tensor = ragged_paged_attention(*(x.cpu() for x in arrays), **settings)
        return made.to(arrays[0].device)

    return call


@pytest.fixture(scope="module")
def inferplane_kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KitState]:
    state = KitState(tmp_path_factory.mktemp("kit"), ["inferplane_tpu.hosted"], quick=True)
    yield state
    state.close()


@pytest.fixture(scope="module")
def inferplane_device() -> str:
    return "tpu"


@pytest.mark.parametrize("heads", [(8, 2), (32, 8), (16, 1), (64, 8)])
@pytest.mark.parametrize("window", [None, 128])
def test_the_chip_s_compiler_accepts_the_kernel_for_our_pages(heads, window) -> None:
    """Lowered for TPUs by Pallas, which needs none; whether it fits a chip's memory stays open."""
    import jax
    import jax.export
    import jax.numpy as jnp
    from torch_xla.experimental.pallas_kernels.ragged_paged_attention_v2 import (
        ragged_paged_attention,
    )

    num_heads, num_kv_heads = heads
    shapes = (
        ((64, num_heads, 128), jnp.bfloat16),
        ((40, 32, 2 * num_kv_heads, 128), jnp.bfloat16),
        ((8,), jnp.int32),
        ((8, 16), jnp.int32),
        ((9,), jnp.int32),
        ((1,), jnp.int32),
    )
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
    run = jax.jit(
        lambda *x: ragged_paged_attention(
            *x,
            sm_scale=0.1,
            sliding_window=window,
            soft_cap=30.0,
            num_kv_pages_per_block=4,
            num_queries_per_block=16,
        )
    )
    made = jax.export.export(run, platforms=["tpu"])(*arrays)
    assert "tpu_custom_call" in made.mlir_module()


class TestTwin(AttentionConformance):
    @pytest.fixture
    def backends(self) -> list[type[RaggedAttention]]:
        return [Twin]
