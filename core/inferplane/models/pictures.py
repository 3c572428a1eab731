"""Which checkpoints see pictures, told from config.json alone: no torch, no library."""

from __future__ import annotations

from inferplane.errors import ModelError
from inferplane.model_config import ModelConfig

__all__ = ["SEEING", "image_token_id", "takes_pictures"]

SEEING = frozenset(("idefics3", "llava", "smolvlm"))
"""`model_type` of what is served with pictures: one token a place, ordinary positions, a causal
mask, features that replace the embeddings of image tokens."""


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
