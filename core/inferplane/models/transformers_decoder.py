"""Any decoder that the transformers library knows, over our attention and KV cache.

Chosen where no model is registered for an architecture, or where the user asks for it: it rounds
exactly where the library rounds. Only classes of the installed library are
used, never code from a checkpoint. T tokens, R rows, N heads, K KV heads, H head size.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from inferplane.errors import ConfigError
from inferplane.interfaces import ForwardContext, LayerKV, Model
from inferplane.layers.build import Builder
from inferplane.model_config import ModelConfig
from inferplane.models.transformers_attention import Router, find_sites
from inferplane.models.transformers_head import Head
from inferplane.models.transformers_library import (
    causal_class,
    library_config,
    register_attention,
    without_weights,
)
from inferplane.models.transformers_weights import expect_tensors, move_buffers

__all__ = ["TransformersDecoder"]


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
        kind, library = self.library_class(config), self.library_config(config, build)
        self.weights = build.weights
        self._dtype_name = build.dtype_name
        self._device = build.device
        self._router = Router()
        register_attention()
        for site in find_sites(kind, library, config, self.decoder_of):
            build.announce(site)
        self.sites = tuple(build.attention_sites)
        with without_weights():
            causal = kind._from_config(library, dtype=build.dtype).eval()
        expect_tensors(causal, build)
        self._inner: Any = causal.base_model
        self._base: Any = self.decoder_of(causal)
        self._head = Head(causal)
        self._router.connect(self._base, {site.name for site in self.sites})

    @staticmethod
    def library_class(config: ModelConfig) -> Any:
        """The class that is built. Raises ConfigError, ModelError."""
        return causal_class(config)

    @staticmethod
    def library_config(config: ModelConfig, build: Builder) -> Any:
        """Its configuration object. Raises ModelError."""
        return library_config(config)

    @staticmethod
    def decoder_of(causal: Any) -> nn.Module:
        """The part of it that attends to the tokens and yields their hidden states."""
        decoder: nn.Module = causal.base_model
        return decoder

    def kv_layers(self) -> tuple[LayerKV, ...]:
        return tuple(site.kv(self._dtype_name) for site in self.sites)

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self.weights.load(weights)
        for part in (self._inner, self._head.causal):
            move_buffers(part, self._device)

    def forward(self, token_ids: Tensor, positions: Tensor, context: ForwardContext) -> Tensor:
        self.route(context)
        return self.hidden(positions, input_ids=token_ids[None].long())

    def logits(self, hidden: Tensor) -> Tensor:
        return self._head(hidden)

    def route(self, context: ForwardContext) -> None:
        """Attention calls of this step go there."""
        self._router.context = context

    def hidden(self, positions: Tensor, **read: Tensor) -> Tensor:
        """[T,D] of the tokens that `read` names as the library does: input_ids [1,T] or
        inputs_embeds [1,T,D].
        """
        made = self._base(position_ids=positions[None].long(), use_cache=False, **read)
        hidden: Tensor = made.last_hidden_state[0]
        return hidden
