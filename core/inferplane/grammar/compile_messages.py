"""What crosses between `compile.py` and the process that compiles; loads no grammar library."""

from __future__ import annotations

import msgspec

__all__ = ["Compiled", "Vocabulary"]


class Vocabulary(msgspec.Struct, frozen=True):
    """Whose tokens grammars are for."""

    model: str
    """Path of the checkpoint."""
    width: int
    """Of the logits."""
    eos_ids: tuple[int, ...]


class Compiled(msgspec.Struct, frozen=True):
    """A grammar the engine may use, or why there is none."""

    text: str = ""
    fault: str = ""
    keyword: str = ""
    """The schema keyword that cannot be enforced."""
    complex: bool = False
    """It asks for too much, rather than for something wrong."""
