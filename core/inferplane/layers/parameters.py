"""Memory for one parameter of a model, wherever this process' devices want it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferplane.loading.weights import Assembly

if TYPE_CHECKING:
    import torch

    from inferplane.layers.build import Builder

__all__ = ["hold"]


def hold(
    build: Builder,
    owner: object,
    attribute: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    cut: int | None = None,
) -> Assembly:
    """A place for `owner.attribute`, to be filled while loading.

    Where the runtime shares layers among several devices, it is put together on the host, and
    dimension `cut` is divided among them once everything is loaded; None = none is.
    """
    runtime = build.runtime
    if runtime is None or runtime.devices == 1:
        return Assembly(owner, attribute, shape, dtype, build.device)
    held = Assembly(owner, attribute, shape, dtype, "cpu")

    def spread() -> None:
        setattr(owner, attribute, runtime.spread(held.tensor(), cut))

    build.weights.when_loaded(spread)
    return held
