"""The option `encoder`: who computes encoders, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec

from inferplane.errors import ConfigError
from inferplane.interfaces import Change, EngineConfig, ModelShape

__all__ = ["ARCHITECTURES", "OPTION", "changes", "missing_packages", "wants_onnx"]

OPTION = "encoder"
ARCHITECTURES = frozenset(
    family + kind
    for family in ("Bert", "Roberta", "XLMRoberta")
    for kind in ("Model", "ForMaskedLM", "ForSequenceClassification")
)
"""What a graph is built for."""

_VALUES = ("native", "onnx")
_PACKAGES = ("onnxruntime", "onnx")


def missing_packages() -> tuple[str, ...]:
    """Those of the extra `onnx` that cannot be imported; none is imported here."""
    return tuple(name for name in _PACKAGES if find_spec(name) is None)


def wants_onnx(config: EngineConfig) -> bool:
    """Raises ConfigError for a value that is neither."""
    asked = config.options.get(OPTION, "") or _VALUES[0]
    if asked not in _VALUES:
        raise ConfigError(f"option {OPTION}={asked!r}: expected {' or '.join(_VALUES)}")
    return asked == "onnx"


def changes(
    config: EngineConfig,
    model: ModelShape,
    missing: Callable[[], Sequence[str]] = missing_packages,
) -> tuple[Change, ...]:
    """What a graph makes of the settings. Raises ConfigError where there can be none."""
    if not wants_onnx(config):
        return ()
    if model.architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ConfigError(
            f"option {OPTION}=onnx: {model.architecture} is not one of {known}; leave it out"
        )
    if lacking := missing():
        raise ConfigError(
            f"option {OPTION}=onnx: {' and '.join(lacking)} not installed: "
            "pip install 'inferplane-cpu[onnx]'"
        )
    if model.quantization or config.quantization not in ("auto", "none"):
        raise ConfigError(
            f"option {OPTION}=onnx computes in float32, without quantised weights "
            "(accepted: quantization auto or none, a checkpoint that is not quantised)"
        )
    if config.tensor_parallel != 1:
        raise ConfigError(f"option {OPTION}=onnx runs on one rank: serve it with tensor_parallel 1")
    if config.dtype == "float32":
        return ()
    return (Change("dtype", "float32", f"option {OPTION}=onnx computes in it"),)
