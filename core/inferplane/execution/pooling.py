"""Which hidden state of a sequence stands for all of it, as the checkpoint says."""

from __future__ import annotations

from typing import Literal

from inferplane.checkpoint import Checkpoint
from inferplane.checkpoint.files import read_object

__all__ = ["Pooling", "read_pooling"]

Pooling = Literal["mean", "cls", "last"]

_FILE = "1_Pooling/config.json"
"""Where the sentence-transformers layout keeps it."""
_MAX_BYTES = 64 * 1024
_KEYS: tuple[tuple[str, Pooling], ...] = (
    ("pooling_mode_mean_tokens", "mean"),
    ("pooling_mode_cls_token", "cls"),
    ("pooling_mode_lasttoken", "last"),
)
_GGUF: dict[object, Pooling] = {1: "mean", 2: "cls", 3: "last"}


def read_pooling(checkpoint: Checkpoint) -> Pooling:
    """What the model's files say; the last token where they are silent, since decoders read
    from left to right. Raises ModelError when the file is damaged.
    """
    if checkpoint.format == "gguf":
        architecture = checkpoint.metadata.get("general.architecture", "")
        return _GGUF.get(checkpoint.metadata.get(f"{architecture}.pooling_type"), "last")
    file = checkpoint.root / _FILE
    said = read_object(file, _MAX_BYTES) if file.is_file() else {}
    return next((pooling for key, pooling in _KEYS if said.get(key) is True), "last")
