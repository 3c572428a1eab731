"""Which checkpoints see pictures, told from config.json alone: no torch, no library."""

from __future__ import annotations

from collections.abc import Mapping

from inferplane.errors import ModelError
from inferplane.model_config import ModelConfig

__all__ = ["SEEING", "image_token_id", "takes_pictures", "why_blind"]

SEEING = frozenset(
    (
        "aya_vision",
        "idefics2",
        "idefics3",
        "internvl",
        "llava",
        "llava_next",
        "llava_onevision",
        "mistral3",
        "smolvlm",
        "vipllava",
    )
)
"""`model_type` of what is served with pictures: ordinary positions, a causal mask, and features
that take the place of the embeddings of image tokens."""

_THREE_POSITIONS = "a token has three positions (mrope), where our attention knows one"
_BOTH_WAYS = "the tokens of a picture see each other both ways, and our attention is causal"
_WHY_BLIND: Mapping[str, str] = {
    "gemma3": _BOTH_WAYS,
    "glm4v": _THREE_POSITIONS,
    "glm4v_moe": _THREE_POSITIONS,
    "mllama": "its decoder reads pictures by cross attention, whose states have no cache here",
    "paligemma": _BOTH_WAYS,
    "qwen2_5_vl": _THREE_POSITIONS,
    "qwen2_vl": _THREE_POSITIONS,
    "qwen3_vl": _THREE_POSITIONS,
    "qwen3_vl_moe": _THREE_POSITIONS,
}


def takes_pictures(config: ModelConfig) -> bool:
    """Whether requests to this model may hold pictures."""
    return config.whole.get("model_type") in SEEING and isinstance(
        config.whole.get("vision_config"), dict
    )


def image_token_id(config: ModelConfig) -> int:
    """The token that stands for one row of a picture's embedding. ModelError when none is named."""
    for key in ("image_token_id", "image_token_index"):
        found = config.whole.get(key)
        if type(found) is int and 0 <= found < config.vocab_size:
            return found
    raise ModelError(
        f"{config.architecture}: config.json has no image_token_id below vocab_size "
        f"{config.vocab_size}, so no place of a prompt can stand for a picture"
    )


def why_blind(config: ModelConfig) -> str:
    """Why pictures for this model are refused, and which models take them."""
    kind = str(config.whole.get("model_type"))
    reason = _WHY_BLIND.get(kind, f"model_type {kind!r} has not been tried")
    return f"{reason} (model types that take pictures: {', '.join(sorted(SEEING))})"
