"""The transformers library as this program uses it: its classes, its attention door, no weights.

Everything here imports it late: it is an extra, and costs seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from inferplane.errors import ConfigError, ModelError
from inferplane.model_config import ModelConfig
from inferplane.models.pictures import why_blind

__all__ = [
    "causal_class",
    "library_config",
    "register_attention",
    "seeing_class",
    "seeing_config",
    "without_weights",
]

_NAME = "inferplane"


def causal_class(config: ModelConfig) -> Any:
    """The library's class of that architecture. Raises ConfigError, ModelError."""
    library = _library(config.architecture)
    kind = getattr(library, config.architecture, None)
    known = library.MODEL_FOR_CAUSAL_LM_MAPPING.values()
    if kind is not None and kind in library.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.values():
        raise ModelError(f"{config.architecture} is made to see, and here {why_blind(config)}")
    if kind is None or kind not in known:
        raise ModelError(
            f"no model {config.architecture!r}: nothing is registered for it, and transformers "
            f"{library.__version__} has no decoder of that name (code from checkpoints is never "
            "run); a plugin can add it: docs/custom-models.md"
        )
    return kind


def library_config(config: ModelConfig) -> Any:
    """The library's configuration object. Raises ModelError."""
    if config.rope.kind == "longrope" or config.window_rope.kind == "longrope":
        raise ModelError(
            f"{config.architecture}: with longrope transformers lets the longest text of a step "
            "change the others, which is not served"
        )
    made = _made(config, config.model_type, config.raw)
    made._attn_implementation = _NAME
    return made


def seeing_class(config: ModelConfig) -> Any:
    """The library's class of that architecture, which takes pictures. ConfigError, ModelError."""
    library = _library(config.architecture)
    kind = getattr(library, config.architecture, None)
    known = library.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.values()
    if kind is None or kind not in known:
        raise ModelError(
            f"no model {config.architecture!r}: transformers {library.__version__} has no class of "
            "that name that takes pictures"
        )
    return kind


def seeing_config(config: ModelConfig, dtype: torch.dtype) -> Any:
    """The library's configuration object of the whole model; only its decoder attends by ours.

    Raises ModelError.
    """
    made = _made(config, str(config.whole.get("model_type")), config.whole)
    parts = list(made.sub_configs)
    for name in parts:
        getattr(made, name).dtype = dtype
    made._attn_implementation = {name: _NAME if name == "text_config" else "sdpa" for name in parts}
    return made


def register_attention() -> None:
    """Make ours one of the library's attention functions; twice is once."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(_NAME, _attend)


@contextmanager
def without_weights() -> Iterator[None]:
    """Modules made meanwhile have parameters on the meta device, and buffers with their values."""
    original = nn.Module.register_parameter

    def register(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=False)
        original(module, name, parameter)

    nn.Module.register_parameter = register  # type: ignore[assignment, method-assign]  # restored
    try:
        yield
    finally:
        nn.Module.register_parameter = original  # type: ignore[method-assign]


def _made(config: ModelConfig, model_type: str, stated: Mapping[str, object]) -> Any:
    library = _library(config.architecture)
    try:
        return library.CONFIG_MAPPING[model_type].from_dict(deepcopy(dict(stated)))
    except Exception as error:  # the library raises what it likes for a wrong value
        raise ModelError(
            f"{config.architecture}: transformers refuses its config: {error}"
        ) from error


def _library(architecture: str) -> Any:
    try:
        import transformers
    except ImportError:
        raise ConfigError(
            f"no model {architecture!r} is registered, and the transformers package, whose models "
            "can be served too, is not installed: pip install 'inferplane[transformers]'"
        ) from None
    return transformers


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The library's signature: [1,N,T,H], [1,K,T,H], [1,K,T,Hv] -> ([1,T,N,Hv], no weights)."""
    target: Any = module._inferplane
    receiver, name = target
    if attention_mask is not None:
        options["attention_mask"] = attention_mask
    attended: Tensor = receiver(name, query, key, value, options)
    return attended, None
