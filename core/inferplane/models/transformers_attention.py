"""Which attention layers a class of the transformers library has, and how their calls reach ours.

T tokens, N heads, K KV heads, H head size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from inferplane.errors import ModelError
from inferplane.interfaces import ForwardContext
from inferplane.layers.build import AttentionSite
from inferplane.model_config import ModelConfig
from inferplane.models.transformers_head import Head

__all__ = ["Router", "find_sites"]

_PROBED = 3
"""Tokens of the run on shapes alone that finds the attention layers."""
_IGNORABLE = ("dropout", "position_ids", "use_cache", "sliding_window", "softcap")
"""Options of an attention call that change nothing here, or are obeyed."""


class Router:
    """Takes the library's attention calls to the context of the step."""

    context: ForwardContext

    def connect(self, base: nn.Module, names: set[str]) -> None:
        """Tell each attention module its name."""
        for name, module in base.named_modules():
            if name in names:
                module._inferplane = (self, name)

    def __call__(
        self, name: str, q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]
    ) -> Tensor:
        """[1,N,T,H], [1,K,T,H], [1,K,T,Hv] -> [1,T,N,Hv]."""
        q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))
        return self.context.attend(name, q, k, v)[None]


class _Probe:
    """Notes what each attention module asks for, over shapes alone."""

    def __init__(self) -> None:
        self.sites: list[AttentionSite] = []

    def __call__(
        self, name: str, q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]
    ) -> Tensor:
        unknown = [key for key, value in options.items() if not _harmless(key, value)]
        if unknown:
            raise ModelError(f"its attention wants {', '.join(unknown)}")
        if q.shape[2] != k.shape[2]:
            raise ModelError("its attention reads more than this step's tokens")
        scale = options.get("scaling")
        self.sites.append(
            AttentionSite(
                name,
                num_heads=q.shape[1],
                num_kv_heads=k.shape[1],
                head_dim=k.shape[3],
                head_dim_v=v.shape[3],
                scale=k.shape[3] ** -0.5 if scale is None else float(scale),
                window=options.get("sliding_window"),
                softcap=options.get("softcap"),
            )
        )
        return q.new_empty((1, q.shape[2], q.shape[1], v.shape[3]))


def _harmless(key: str, value: Any) -> bool:
    if key == "is_causal":
        return value is not False
    return key in (*_IGNORABLE, "scaling") or value is None


def find_sites(
    kind: Any, library: Any, config: ModelConfig, part: Callable[[Any], Any]
) -> list[AttentionSite]:
    """The attention layers of `part` of a model, by a run on the meta device. Raises ModelError."""
    probe = _Probe()
    try:
        with torch.device("meta"), torch.inference_mode():
            causal = kind._from_config(library).eval()
            base = part(causal)
            for name, module in base.named_modules():
                module._inferplane = (probe, name)
            ids = torch.zeros(1, _PROBED, dtype=torch.int64)
            places = torch.arange(_PROBED)[None]
            hidden = base(input_ids=ids, position_ids=places, use_cache=False).last_hidden_state[0]
            Head(causal)(hidden)
    except Exception as error:  # whatever the library's class does with what it does not expect
        raise ModelError(
            f"{config.architecture}: transformers' own class cannot run over our attention: {error}"
        ) from error
    names = [site.name for site in probe.sites]
    state = any(isinstance(m, nn.Conv1d) for m in base.modules()) or kind._is_stateful
    if len(set(names)) != len(names) or len(names) != config.num_layers or state:
        raise ModelError(
            f"{config.architecture}: in transformers' own class "
            f"{len(set(names))} of {config.num_layers} layers attend, {len(names)} times in all"
            f"{', beside another state' if state else ''}: each must, once, and keep nothing else"
        )
    return probe.sites
