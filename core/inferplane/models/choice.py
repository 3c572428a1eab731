"""Which class computes an architecture: a registered one, else the one for all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inferplane.interfaces import Choice
from inferplane.registry import Catalogue

__all__ = ["OTHERS", "OTHERS_THAT_SEE", "choose_model"]

OTHERS = "*"
"""Registered name of the class for architectures without an entry of their own."""
OTHERS_THAT_SEE = "* with pictures"
"""The same for models whose prompts may hold pictures."""


def choose_model(
    catalogue: Catalogue,
    architecture: str,
    labels: Sequence[str],
    *,
    registered: bool = True,
    sees: bool = False,
) -> tuple[Any, Choice]:
    """The Model class and why. Raises UnknownNameError where there is none, listing the known.

    Not `registered`: the class for all others even where the architecture has its own. `sees`: the
    model takes pictures.
    """
    models = catalogue["models"]
    own = models.candidates(architecture, labels) if registered else ()
    entry = own[0] if own else None
    if entry is None:
        others = models.candidates(OTHERS_THAT_SEE if sees else OTHERS, labels)
        entry = others[0] if others else models.get(architecture, labels)
    kind = entry.load()
    return kind, Choice("model", architecture, kind.__name__, entry.owner)
