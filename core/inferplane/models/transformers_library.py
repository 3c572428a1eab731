"""The transformers library as this program uses it: its classes, its attention door, no weights.

Everything here imports it late: it is an extra, and costs seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from inferplane.errors import ConfigError, ModelError
from inferplane.model_config import ModelConfig

__all__ = ["causal_class", "library_config", "register_attention", "without_weights"]

_NAME = "inferplane"


def causal_class(config: ModelConfig) -> Any:
    """The library's class of that architecture. Raises ConfigError, ModelError."""
    library = _library(config.architecture)
    kind = getattr(library, config.architecture, None)
    known = library.MODEL_FOR_CAUSAL_LM_MAPPING.values()
    if kind is None or kind not in known:
        raise ModelError(
            f"no model {config.architecture!r}: nothing is registered for it, and transformers "
            f"{library.__version__} has no decoder of that name (code from checkpoints is never "
            "run); a plugin can add it: docs/custom-models.md"
        )
    return kind


def library_config(config: ModelConfig) -> Any:
    """The library's configuration object. Raises ModelError."""
    library = _library(config.architecture)
    if config.rope.kind == "longrope" or config.window_rope.kind == "longrope":
        raise ModelError(
            f"{config.architecture}: with longrope transformers lets the longest text of a step "
            "change the others, which is not served"
        )
    try:
        made = library.CONFIG_MAPPING[config.model_type].from_dict(dict(config.raw))
    except Exception as error:  # the library raises what it likes for a wrong value
        raise ModelError(
            f"{config.architecture}: transformers refuses its config: {error}"
        ) from error
    made._attn_implementation = _NAME
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
