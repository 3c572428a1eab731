"""The XLA software stack as Python sees it: what must be installed, told without importing it, and
the few of its functions that this plugin calls.

The only module of this plugin that may ever import `torch_xla`: `libtpu` belongs to one process
of a host, so nobody but the worker may touch it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inferplane.probing import Requirement, first_problem, installed_versions

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = [
    "Counters",
    "counters",
    "divide",
    "donate",
    "exact_products",
    "flush",
    "int8_product",
    "keep_programs",
    "memory",
    "mesh",
    "problem",
    "ragged_attention",
    "sharding",
    "share_programs",
    "use_client",
    "versions",
]

_EXACT = "2.9.0"
"""torch_xla's last release; it works with this torch and no other."""
_PYTHON_STACK = (
    Requirement("torch-xla", _EXACT, "torch_xla", 'PyPI (`pip install "inferplane-tpu[xla]"`)'),
    Requirement("torch", _EXACT, "torch", "PyPI"),
)
_DRIVER = Requirement("libtpu", "0.0.21", "libtpu", "PyPI")


def problem(chips: bool = True) -> str:
    """Why the stack cannot be used, with the next step; "" = it looks right.

    `chips` False: for XLA's client of the host processor, which needs no `libtpu`.
    """
    if missing := first_problem((*_PYTHON_STACK, _DRIVER) if chips else _PYTHON_STACK):
        return missing
    torch = _PYTHON_STACK[1].version()
    if torch.split("+")[0] != _EXACT:
        return f"torch {torch} does not fit torch-xla {_EXACT}, which needs torch =={_EXACT}"
    return ""


def versions() -> dict[str, str]:
    """Name -> version of what is installed, for `inferplane doctor`."""
    return installed_versions((*_PYTHON_STACK, _DRIVER))


def use_client(kind: str) -> None:
    """Load torch_xla; "TPU" or "CPU" is the client it starts unless the process already names one.

    The planner's `worker_env` says the same; this is for callers who run inside their own process.
    """
    os.environ.setdefault("PJRT_DEVICE", kind)
    import torch_xla  # noqa: F401  # it registers the device and the backend "openxla"


def keep_programs(folder: str) -> None:
    """Compiled programs are kept in `folder` and found there by the next process.

    Has an effect once a process, before its first computation.
    """
    import torch_xla
    import torch_xla.runtime as runtime

    if not torch_xla._XLAC._xla_computation_cache_is_initialized():
        runtime.initialize_cache(folder, readonly=False)


def exact_products() -> None:
    """Products of float32 matrices in float32; a TPU rounds their inputs to bfloat16 otherwise."""
    from torch_xla import backends

    if backends.get_mat_mul_precision() != "highest":
        backends.set_mat_mul_precision("highest")


def flush(wait: bool = False) -> None:
    """Run what was recorded outside of programs; `wait` until the device has done everything."""
    import torch_xla
    import torch_xla.core.xla_model as xla_model

    torch_xla.sync(wait=wait)
    if wait:
        xla_model.wait_device_ops()


@dataclass(frozen=True, slots=True)
class Counters:
    """What XLA counted in this process so far."""

    compiles: int
    compile_seconds: float
    cache_hits: int
    fallbacks: int
    """Operations it has no lowering for, run by torch on the host."""


def counters() -> Counters:
    """Now."""
    import torch_xla.debug.metrics as metrics

    count, nanoseconds, _ = metrics.metric_data("CompileTime") or (0, 0.0, ())
    return Counters(
        int(count),
        float(nanoseconds) / 1e9,
        int(metrics.counter_value("PersistentCacheHit") or 0),
        sum(int(metrics.counter_value(n)) for n in metrics.counter_names() if "aten::" in n),
    )


def memory() -> tuple[int, int]:
    """Bytes (used, limit) of the first device. Raises RuntimeError where the client cannot tell."""
    import torch_xla.core.xla_model as xla_model

    info: Any = xla_model.get_memory_info()
    return int(info["bytes_used"]), int(info["bytes_limit"])


def share_programs() -> int:
    """From now on every program of this process runs on all its devices; how many there are."""
    import torch_xla.runtime as runtime

    if not runtime.is_spmd():
        runtime.use_spmd()
    return int(runtime.global_runtime_device_count())


def mesh(devices: int) -> Any:
    """All devices in one row, for `divide`."""
    import numpy as np
    from torch_xla.distributed import spmd

    return spmd.Mesh(np.arange(devices), (devices,), ("shards",))


def divide(tensor: Tensor, mesh: Any, cut: int | None) -> None:
    """Annotate: dimension `cut` lies divided over the mesh, the others whole.

    Source: GSPMD (arXiv:2105.04663), through torch_xla's `mark_sharding`.
    """
    from torch_xla.distributed import spmd

    parts = tuple("shards" if at == cut else None for at in range(tensor.ndim))
    spmd.mark_sharding(tensor, mesh, parts)


def sharding(tensor: Tensor) -> str:
    """How XLA says a tensor lies on the devices; "" = nothing was said."""
    import torch_xla

    return str(torch_xla._XLAC._get_xla_sharding_spec(tensor))


def donate(tensor: Tensor) -> Tensor:
    """Inside a program: its result may take the place of `tensor`, instead of a copy of all of it.

    Source: torch_xla's `dynamo_set_buffer_donor_`, which becomes input-output aliasing in XLA.
    """
    import torch

    given: Tensor = torch.ops.xla.dynamo_set_buffer_donor_(tensor, True)
    return given


def int8_product() -> Callable[[Tensor, Tensor], Tensor]:
    """(a int8[T,I], b int8[O,I]) -> i32[T,O] as XLA's own product, known to torch as an operator.

    torch has no such product for this device, and widening first would take four times the bytes.
    """
    import torch
    import torch_xla

    if hasattr(torch.ops.inferplane_tpu, "int8_product"):  # torch keeps what was registered
        known: Callable[[Tensor, Tensor], Tensor] = torch.ops.inferplane_tpu.int8_product
        return known

    def product(a: Tensor, b: Tensor) -> Tensor:
        made: Tensor = torch_xla._XLAC._xla_dot_general(
            a, b, (([1], [1]), ()), preferred_element_type=torch.int32
        )
        return made

    def shape(a: Tensor, b: Tensor) -> Tensor:
        return a.new_empty((a.shape[0], b.shape[0]), dtype=torch.int32)

    operator = torch.library.custom_op(
        "inferplane_tpu::int8_product",
        product,
        mutates_args=(),
        device_types="xla",
        schema="(Tensor a, Tensor b) -> Tensor",
    )
    operator.register_fake(shape)
    made: Callable[[Tensor, Tensor], Tensor] = torch.ops.inferplane_tpu.int8_product
    return made


def ragged_attention() -> Callable[..., Tensor]:
    """torch_xla's ragged paged attention: a Pallas kernel, or plain torch with use_kernel=False."""
    import torch
    import torch_xla.experimental.custom_kernel  # noqa: F401  # it registers the operator

    operator: Callable[..., Tensor] = torch.ops.xla.ragged_paged_attention
    return operator
