"""What a device offers, as the compatibility matrix tells it: found by asking, not by running."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from inferplane.errors import ConfigError
from inferplane.interfaces import (
    AttentionSpec,
    EngineConfig,
    LinearSite,
    ModelShape,
    Platform,
    QuantScheme,
    Reasons,
)
from inferplane.testing.conformance.subject import Subject

__all__ = ["features_of"]

_PLAIN = AttentionSpec(8, 2, 64, 64, "", "", 0.125, 0)
ATTENTION: Mapping[str, AttentionSpec] = {
    "grouped heads": _PLAIN,
    "sliding window": replace(_PLAIN, window=128),
    "soft cap": replace(_PLAIN, softcap=30.0),
    "sinks": replace(_PLAIN, sinks=True),
    "head size 128": replace(_PLAIN, head_dim=128, head_dim_v=128),
    "head size 256": replace(_PLAIN, head_dim=256, head_dim_v=256),
}
QUANTIZATION: Mapping[str, QuantScheme] = {
    "int8 weights": QuantScheme("int8"),
    "int8 weights and activations": QuantScheme("int8", activation="int8"),
    "int4 weights, groups of 128": QuantScheme("int4", 128),
    "int4 weights, groups of 32 with offsets": QuantScheme("int4", 32, offset=True),
    "fp8 weights": QuantScheme("fp8_e4m3"),
    "fp8 weights and activations": QuantScheme("fp8_e4m3", activation="fp8_e4m3"),
}
_LLAMA = ModelShape("LlamaForCausalLM", 16, 2048, 32, 8, 64, 128_256, 131_072, "bfloat16")
_Ask: TypeAlias = Callable[[type[Any]], Reasons]
"""Why a class does not serve what is asked."""


def features_of(subject: Subject) -> dict[str, object]:
    """{"refusal", "steps", "attention", "quantization", "extra_names"} in words and strings.

    Values of attention and quantization: an owner's name, "reference" (the core's own, which is
    slow), "dequantized", or "" where nothing is known without the plugin's libraries.
    """
    limits = subject.caps.limits
    return {
        "refusal": _refusal(subject),
        "steps": {
            "chunked prefill": limits.chunked_prefill,
            "prefill beside decode": limits.mix_prefill_decode,
            "prefix cache": limits.prefix_cache,
            "overlapped steps": limits.async_steps > 0,
            "speculation": limits.max_drafts > 0,
        },
        "attention": {} if subject.narrow else _attention(subject),
        "quantization": {} if subject.narrow else _quantization(subject),
        "extra_names": sorted(
            name
            for name in dir(type(subject.platform))
            if not name.startswith("_") and not hasattr(Platform, name)
        ),
    }


def _refusal(subject: Subject) -> str:
    """Why not even a plain Llama would be run; "" = it would."""
    try:
        config = EngineConfig("a-model", device=subject.device)
        subject.platform.resolve(config, subject.caps, _LLAMA)
    except ConfigError as refusal:
        return str(refusal)
    return ""


def _attention(subject: Subject) -> dict[str, str]:
    caps, dtype = subject.caps, subject.caps.compute_dtypes[0]
    found = {}
    for name, spec in ATTENTION.items():
        asked = replace(spec, dtype=dtype, kv_dtype=dtype, block_size=caps.block_multiple)

        def ask(backend: type[Any], spec: AttentionSpec = asked) -> Reasons:
            reasons: Reasons = backend.supports(spec, caps)
            return reasons

        found[name] = _first(subject, "attention", ask, otherwise="reference")
    return found


def _quantization(subject: Subject) -> dict[str, str]:
    caps, site = subject.caps, LinearSite(2048, 2048, subject.caps.compute_dtypes[0])
    found = {}
    for name, scheme in QUANTIZATION.items():

        def ask(kernel: type[Any], scheme: QuantScheme = scheme) -> Reasons:
            reasons: Reasons = kernel.supports(scheme, site, caps)
            return reasons

        found[name] = _first(subject, "quantization_kernels", ask, otherwise="dequantized")
    return found


def _first(subject: Subject, kind: str, ask: _Ask, otherwise: str) -> str:
    """The name of the first thing of a kind that gives no reason against it."""
    for entry in subject.entries(kind):
        try:
            part = entry.load()
        except ImportError:  # its library is not on this machine, so what it serves is not known
            otherwise = ""
            continue
        if not ask(part):
            return entry.name
    return otherwise
