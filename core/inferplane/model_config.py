"""config.json in typed, checked numbers; knows nothing of torch nor of how a model computes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from inferplane.assumed_keys import ASSUMED, ASSUMED_WITHIN
from inferplane.checkpoint import Checkpoint
from inferplane.checkpoint.checked_keys import CheckedKeys
from inferplane.errors import ModelError
from inferplane.interfaces import ModelShape
from inferplane.speech_config import HEARING, decoder_keys

__all__ = ["ModelConfig", "MoeConfig", "RopeConfig", "read_model_config"]

DTYPES = ("float32", "float16", "bfloat16")
_SCALED = ("linear", "llama3")
"""Kinds that mean nothing without a factor."""
ONLINE = ("int8", "int4", "fp8")
"""What weights can be quantised to while they are loaded."""
ROPE_KINDS = ("default", "linear", "llama3", "yarn", "longrope", "factors")


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding of one kind of layer; fields beyond `theta` serve the scaling `kind`."""

    theta: float = 10_000.0
    kind: str = "default"
    """One of ROPE_KINDS; "factors" divides each frequency by its own number."""
    partial: float = 1.0
    """Share of the head size that is rotated."""
    factor: float = 1.0
    original_max_position: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    factors: tuple[float, ...] = ()
    """[rotated / 2]; for longrope those of short contexts."""
    long_factors: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class MoeConfig:
    """Routed experts of a layer's feed-forward part."""

    num_experts: int
    num_active: int
    intermediate_size: int
    renormalize: bool
    dense_layers: frozenset[int] = frozenset()
    """Layers that keep an ordinary feed-forward part."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A decoder in numbers; what only one architecture knows is in `raw`."""

    architecture: str
    model_type: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position: int
    dtype: str
    norm_eps: float
    activation: str
    rope: RopeConfig
    window_rope: RopeConfig
    """Of the layers with a window; equal to `rope` in most models."""
    layer_windows: tuple[int | None, ...]
    """Per layer: a token sees itself and the window-1 before it; None = everything."""
    attention_scale: float
    tie_embeddings: bool
    attention_bias: bool = False
    mlp_bias: bool = False
    attention_softcap: float | None = None
    logits_softcap: float | None = None
    embedding_scale: float = 1.0
    moe: MoeConfig | None = None
    eos_ids: tuple[int, ...] = ()
    bos_id: int | None = None
    quantization: Mapping[str, object] = field(default_factory=dict)
    """quantization_config of the checkpoint; {} = none."""
    raw: Mapping[str, object] = field(default_factory=dict)
    """config.json, the language model's part of it on top."""
    whole: Mapping[str, object] = field(default_factory=dict)
    """config.json as it is."""

    def shape(self) -> ModelShape:
        """The part that plugins may read while planning."""
        method = self.quantization.get("quant_method", "")
        return ModelShape(
            architecture=self.architecture,
            num_layers=self.num_layers,
            hidden_size=self.hidden_size,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            vocab_size=self.vocab_size,
            max_position=self.max_position,
            dtype=self.dtype,
            quantization=method if isinstance(method, str) else "",
        )


def read_model_config(
    checkpoint: Checkpoint, dtype: str = "auto", quantization: str = "auto"
) -> ModelConfig:
    """The model's numbers, each within bounds. Raises ModelError naming file, key and value.

    `dtype` "auto" takes the checkpoint's own; else one of DTYPES. `quantization` "auto" serves the
    checkpoint as it is, "none" dequantises GGUF blocks, one of ONLINE quantises while loading.
    """
    keys = _keys(checkpoint)
    hidden = keys.integer("hidden_size", "n_embd", most=2**20)
    num_layers = keys.integer("num_hidden_layers", "n_layer", most=4096)
    heads = keys.integer("num_attention_heads", "n_head", most=2**14)
    kv_heads = keys.integer("num_key_value_heads", most=2**14, default=heads)
    head_dim = keys.integer("head_dim", most=4096, default=max(hidden // heads, 1))
    vocab_size = keys.integer("vocab_size", most=2**24)
    if heads % kv_heads:
        raise keys.fault("num_key_value_heads", kv_heads, f"a divisor of the {heads} heads")
    if keys.find("head_dim") is None and hidden % heads:
        raise keys.fault("num_attention_heads", heads, f"a divisor of hidden_size {hidden}")
    rope, window_rope = _ropes(keys, head_dim)
    scalar = keys.number("query_pre_attn_scalar", default=float(head_dim))
    return ModelConfig(
        architecture=_architecture(keys),
        model_type=keys.text("model_type", ""),
        num_layers=num_layers,
        hidden_size=hidden,
        intermediate_size=keys.integer(
            "intermediate_size", "n_inner", most=2**22, default=4 * hidden
        ),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=vocab_size,
        max_position=keys.integer("max_position_embeddings", "n_positions", most=2**31 - 1),
        dtype=_dtype(keys, checkpoint, dtype),
        norm_eps=keys.number(
            "rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", default=1e-6, most=0.1
        ),
        activation=keys.text("hidden_activation", "")
        or keys.text("hidden_act", "")
        or keys.text("activation_function", "silu"),
        rope=rope,
        window_rope=window_rope,
        layer_windows=_windows(keys, num_layers),
        attention_scale=1.0 / math.sqrt(scalar),
        tie_embeddings=keys.flag("tie_word_embeddings", _no_output_weights(checkpoint)),
        attention_bias=keys.flag("attention_bias", False),
        mlp_bias=keys.flag("mlp_bias", False),
        attention_softcap=keys.optional_number("attn_logit_softcapping"),
        logits_softcap=keys.optional_number("final_logit_softcapping"),
        embedding_scale=_embedding_scale(keys, hidden),
        moe=_moe(keys, num_layers),
        eos_ids=_end_ids(keys, checkpoint, vocab_size),
        bos_id=_token_id(keys, "bos_token_id", vocab_size),
        quantization=_quantization(keys, checkpoint, quantization),
        raw=keys.raw,
        whole=checkpoint.config,
    )


def _keys(checkpoint: Checkpoint) -> CheckedKeys:
    config = _merged(checkpoint.config)
    model_type = config.get("model_type")
    kind = model_type if isinstance(model_type, str) else ""
    assumed = ASSUMED.get(kind, {})
    if isinstance(checkpoint.config.get("text_config"), dict):
        assumed = {**assumed, **ASSUMED_WITHIN.get(kind, {})}
    file = checkpoint.root if checkpoint.format == "gguf" else checkpoint.root / "config.json"
    return CheckedKeys(str(file), config, assumed)


def _merged(config: Mapping[str, object]) -> Mapping[str, object]:
    """The language model's part of a multimodal configuration on top of the shared part."""
    inner = config.get("text_config")
    if config.get("model_type") in HEARING:
        return decoder_keys(config)
    if not isinstance(inner, dict):
        return config
    outer = {
        key: value for key, value in config.items() if key not in ("text_config", "model_type")
    }
    return {**outer, **inner, "architectures": config.get("architectures")}


def _architecture(keys: CheckedKeys) -> str:
    found = keys.find("architectures")
    if not isinstance(found, list) or not found or not isinstance(found[0], str):
        raise keys.fault("architectures", found, "a list naming the model's class")
    return found[0]


def _dtype(keys: CheckedKeys, checkpoint: Checkpoint, asked: str) -> str:
    if asked != "auto":
        if asked not in DTYPES:
            raise ModelError(f"dtype {asked!r} is unknown (accepted: auto, {', '.join(DTYPES)})")
        return asked
    stated = keys.find("dtype", "torch_dtype")
    if isinstance(stated, str) and stated in DTYPES:
        return stated
    if stated is not None and not isinstance(stated, str):
        raise keys.fault("dtype", stated, f"one of {', '.join(DTYPES)}")
    held = {tensor.dtype for tensor in checkpoint.tensors.values()}
    for name, dtype in (("BF16", "bfloat16"), ("F16", "float16")):
        if name in held:
            return dtype
    return "float32"


def _quantization(keys: CheckedKeys, checkpoint: Checkpoint, asked: str) -> Mapping[str, object]:
    stored = keys.mapping("quantization_config") or keys.mapping("compression_config")
    method = stored.get("quant_method", "")
    if asked in ("auto", method):
        return stored
    if asked not in ("none", *ONLINE):
        known = ", ".join(("auto", "none", *ONLINE))
        raise ModelError(f"quantization {asked!r} is unknown (accepted: {known})")
    if method not in ("", "gguf"):
        raise ModelError(
            f"{keys.where}: is quantised with {method!r} already and cannot be served with "
            f"quantization {asked!r}: leave it out"
        )
    return {} if asked == "none" else {"quant_method": "online", "weights": asked}


def _ropes(keys: CheckedKeys, head_dim: int) -> tuple[RopeConfig, RopeConfig]:
    """(layers that see everything, layers with a window)."""
    nested = keys.mapping("rope_parameters")
    if any(isinstance(value, dict) for value in nested.values()):
        full, window = nested.get("full_attention"), nested.get("sliding_attention")
        rope = _rope(keys, full if isinstance(full, dict) else {}, head_dim)
        return rope, _rope(keys, window if isinstance(window, dict) else {}, head_dim)
    rope = _rope(keys, nested or keys.mapping("rope_scaling"), head_dim)
    local = keys.optional_number("rope_local_base_freq")
    return rope, rope if local is None else RopeConfig(theta=local, partial=rope.partial)


def _rope(keys: CheckedKeys, scaling: Mapping[str, object], head_dim: int) -> RopeConfig:
    inner = CheckedKeys(f"{keys.where}: rope_parameters", scaling)
    kind = inner.text("rope_type", inner.text("type", "default"))
    if kind not in ROPE_KINDS:
        raise inner.fault("rope_type", kind, f"one of {', '.join(ROPE_KINDS)}")
    theta = keys.number("rope_theta", default=10_000.0)
    partial = keys.number("partial_rotary_factor", default=1.0, most=1.0)
    partial = inner.number("partial_rotary_factor", default=partial, most=1.0)
    most_positions = keys.integer("max_position_embeddings", "n_positions", most=2**31 - 1)
    original = keys.integer(
        "original_max_position_embeddings", most=2**31 - 1, default=most_positions
    )
    rotated = int(head_dim * partial)
    original = inner.integer("original_max_position_embeddings", most=2**31 - 1, default=original)
    stretched = max(most_positions / original, 1.0) if kind in ("yarn", "longrope") else 1.0
    return RopeConfig(
        theta=inner.number("rope_theta", default=theta),
        kind=kind,
        partial=partial,
        factor=inner.number("factor", default=None if kind in _SCALED else stretched),
        original_max_position=original,
        low_freq_factor=inner.number("low_freq_factor", default=1.0),
        high_freq_factor=inner.number("high_freq_factor", default=4.0),
        beta_fast=inner.number("beta_fast", default=32.0),
        beta_slow=inner.number("beta_slow", default=1.0),
        attention_factor=inner.optional_number("attention_factor"),
        mscale=inner.optional_number("mscale"),
        mscale_all_dim=inner.optional_number("mscale_all_dim"),
        truncate=inner.flag("truncate", True),
        factors=_factors(inner, "short_factor" if kind == "longrope" else "factors", kind, rotated),
        long_factors=_factors(inner, "long_factor", kind, rotated),
    )


def _factors(keys: CheckedKeys, key: str, kind: str, rotated: int) -> tuple[float, ...]:
    needed = kind == "longrope" or (kind == "factors" and key == "factors")
    if not needed:
        return ()
    found = keys.find(key)
    numbers = found if isinstance(found, list) else []
    good = all(isinstance(n, int | float) and 0 < n < 1e6 for n in numbers)
    if len(numbers) != rotated // 2 or not good:
        raise keys.fault(key, found, f"{rotated // 2} positive numbers")
    return tuple(float(number) for number in numbers)


def _windows(keys: CheckedKeys, num_layers: int) -> tuple[int | None, ...]:
    if not keys.flag("use_sliding_window", True) or keys.find("sliding_window") is None:
        return (None,) * num_layers
    window = keys.integer("sliding_window", most=2**31 - 1)
    kinds = keys.find("layer_types")
    if kinds is not None:
        known = ("full_attention", "sliding_attention")
        if not isinstance(kinds, list) or len(kinds) != num_layers:
            raise keys.fault("layer_types", kinds, f"a list of {num_layers} names")
        for kind in kinds:
            if kind not in known:
                raise keys.fault("layer_types", kind, f"only {' and '.join(known)}")
        return tuple(window if kind == "sliding_attention" else None for kind in kinds)
    if keys.find("sliding_window_pattern") is not None:
        pattern = keys.integer("sliding_window_pattern", most=num_layers + 4096)
        return tuple(window if (i + 1) % pattern else None for i in range(num_layers))
    first = keys.find("max_window_layers")
    if first is not None and (type(first) is not int or first < 0):
        raise keys.fault("max_window_layers", first, "a layer's number")
    return tuple(window if i >= (first or 0) else None for i in range(num_layers))


def _embedding_scale(keys: CheckedKeys, hidden: int) -> float:
    """Gemma's class multiplies embeddings by the root of their size; no key says so."""
    return math.sqrt(hidden) if keys.text("model_type", "").startswith("gemma") else 1.0


def _moe(keys: CheckedKeys, num_layers: int) -> MoeConfig | None:
    if keys.find("num_experts", "num_local_experts") is None:
        return None
    experts = keys.integer("num_experts", "num_local_experts", most=4096)
    step = keys.integer("decoder_sparse_step", most=4096, default=1)
    dense = keys.find("mlp_only_layers") or []
    if not isinstance(dense, list) or not all(type(layer) is int for layer in dense):
        raise keys.fault("mlp_only_layers", dense, "a list of layer numbers")
    sparse = {i for i in range(num_layers) if (i + 1) % step == 0 and i not in dense}
    return MoeConfig(
        num_experts=experts,
        num_active=keys.integer("num_experts_per_tok", most=experts),
        intermediate_size=keys.integer("moe_intermediate_size", "intermediate_size", most=2**22),
        renormalize=keys.flag("norm_topk_prob", True),
        dense_layers=frozenset(range(num_layers)) - sparse,
    )


def _end_ids(keys: CheckedKeys, checkpoint: Checkpoint, vocab_size: int) -> tuple[int, ...]:
    """End tokens of generation_config.json first, then those of config.json."""
    generation = CheckedKeys(
        str(checkpoint.root / "generation_config.json"), checkpoint.generation_config
    )
    found: list[int] = []
    for held in (generation, keys):
        value = held.find("eos_token_id")
        for token in value if isinstance(value, list) else [value]:
            if token is None:
                continue
            if type(token) is not int or not 0 <= token < vocab_size:
                raise held.fault("eos_token_id", value, f"ids below vocab_size {vocab_size}")
            found.append(token)
    return tuple(dict.fromkeys(found))


def _token_id(keys: CheckedKeys, key: str, vocab_size: int) -> int | None:
    value = keys.find(key)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < vocab_size:
        raise keys.fault(key, value, f"an id below vocab_size {vocab_size}")
    return value


def _no_output_weights(checkpoint: Checkpoint) -> bool:
    """Whether files that do not say it share input and output embeddings."""
    return checkpoint.format != "none" and "lm_head.weight" not in checkpoint.tensors
