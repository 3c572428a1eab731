"""Any decoder that the transformers library knows, over our attention and KV cache.

Chosen where no model is registered for an architecture, or where the user asks for it: it rounds
exactly where the library rounds. Only classes of the installed library are
used, never code from a checkpoint. T tokens, R rows, N heads, K KV heads, H head size.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from inferplane.errors import ConfigError, ModelError
from inferplane.interfaces import ForwardContext, LayerKV, Model
from inferplane.layers.build import AttentionSite, Builder
from inferplane.model_config import ModelConfig
from inferplane.models.transformers_library import (
    causal_class,
    library_config,
    register_attention,
    without_weights,
)

__all__ = ["TransformersDecoder"]

_PROBED = 3
"""Tokens of the run on shapes alone that finds the attention layers."""
_IGNORABLE = ("dropout", "position_ids", "use_cache", "sliding_window", "softcap")
"""Options of an attention call that change nothing here, or are obeyed."""


class TransformersDecoder(Model):
    """One `…ForCausalLM` of the library. Its tensors are checked by name, shape and values."""

    traceable = False

    def __init__(self, config: ModelConfig, build: Builder) -> None:
        if build.world_size > 1:
            name = config.architecture
            raise ConfigError(f"{name} runs on one rank: serve it with tensor_parallel 1")
        if config.quantization:
            raise ConfigError(
                f"{config.architecture}: the transformers library's class takes no quantised "
                "weights; serve GGUF files with quantization none"
            )
        kind, library = causal_class(config), library_config(config)
        self.weights = build.weights
        self._dtype_name = build.dtype_name
        self._device = build.device
        self._router = _Router()
        register_attention()
        for site in _find_sites(kind, library, config):
            build.announce(site)
        self.sites = tuple(build.attention_sites)
        with without_weights():
            causal = kind._from_config(library, dtype=build.dtype).eval()
        _expect(causal, build)
        self._base = causal.base_model
        self._head = _Head(causal)
        self._router.connect(self._base, {site.name for site in self.sites})

    def kv_layers(self) -> tuple[LayerKV, ...]:
        return tuple(site.kv(self._dtype_name) for site in self.sites)

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self.weights.load(weights)
        for part in (self._base, self._head.causal):
            for module in part.modules():
                for name, buffer in module._buffers.items():
                    if buffer is not None:
                        module._buffers[name] = buffer.to(self._device)

    def forward(self, token_ids: Tensor, positions: Tensor, context: ForwardContext) -> Tensor:
        self._router.context = context
        made = self._base(
            input_ids=token_ids[None].long(), position_ids=positions[None].long(), use_cache=False
        )
        hidden: Tensor = made.last_hidden_state[0]
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        return self._head(hidden)


class _Router:
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


def _find_sites(kind: Any, library: Any, config: ModelConfig) -> list[AttentionSite]:
    """The attention layers, by a run on the meta device. Raises ModelError."""
    probe = _Probe()
    try:
        with torch.device("meta"), torch.inference_mode():
            causal = kind._from_config(library).eval()
            base = causal.base_model
            for name, module in base.named_modules():
                module._inferplane = (probe, name)
            ids = torch.zeros(1, _PROBED, dtype=torch.int64)
            places = torch.arange(_PROBED)[None]
            hidden = base(input_ids=ids, position_ids=places, use_cache=False).last_hidden_state[0]
            _Head(causal)(hidden)
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


class _Head:
    """hidden[R,D] -> f32[R,V] by the library's own code, scales and caps included."""

    def __init__(self, causal: Any) -> None:
        self._given = _Given()
        setattr(causal, causal.base_model_prefix, self._given)
        self.causal = causal

    def __call__(self, hidden: Tensor) -> Tensor:
        self._given.hidden = hidden[None]
        ids = torch.zeros(1, hidden.shape[0], dtype=torch.int64, device=hidden.device)
        logits: Tensor = self.causal(input_ids=ids, use_cache=False).logits[0].float()
        return logits


class _Given(nn.Module):
    """Stands where the decoder was, and answers the hidden states it is given."""

    hidden: Tensor

    @property
    def decoder(self) -> _Given:
        """Some classes ask a part of the decoder by this name."""
        return self

    def forward(self, *args: Any, **options: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=self.hidden)


def _expect(causal: Any, build: Builder) -> None:
    """Declare every tensor; tied ones once, under the name that comes first."""
    holders: dict[int, list[tuple[dict[str, Any], str, str]]] = {}
    stored = causal.state_dict(keep_vars=True)
    for path, module in causal.named_modules():
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
