"""Every tensor of a class of the transformers library, declared to our loader."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from inferplane.layers.build import Builder

__all__ = ["expect_tensors", "move_buffers"]


def expect_tensors(causal: Any, build: Builder) -> None:
    """Declare every tensor; tied ones once, under the name that comes first."""
    holders: dict[int, list[tuple[dict[str, Any], str, str]]] = {}
    stored = causal.state_dict(keep_vars=True)
    for path, module in causal.named_modules():
        for name in module._non_persistent_buffers_set:  # which older files hold
            build.weights.ignore(f"{path}.{name}" if path else name)
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                full = f"{path}.{name}" if path else name
                if full in stored and tensor is not None:
                    holders.setdefault(id(tensor), []).append((held, name, full))
    for tied in holders.values():
        first, *others = tied
        like = first[0][first[1]]
        for _, _, name in others:
            build.weights.ignore(name)
        if not like.is_floating_point():
            build.weights.ignore(first[2])
            continue

        def place(
            tensor: Tensor, tied: list[tuple[dict[str, Any], str, str]] = tied, like: Tensor = like
        ) -> None:
            copied = torch.empty(like.shape, dtype=like.dtype, device=build.device)
            copied.copy_(tensor)
            parameter = nn.Parameter(copied, requires_grad=False)
            for held, name, _ in tied:
                held[name] = parameter if isinstance(like, nn.Parameter) else copied

        build.weights.expect(first[2], tuple(like.shape), place)


def move_buffers(modules: nn.Module, device: str) -> None:
    """Bring what is no weight to the device as well."""
    for module in modules.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)
