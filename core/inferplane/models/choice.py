"""Which class computes an architecture: a registered one, else the one for all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inferplane.interfaces import Choice
from inferplane.registry import Catalogue, Entry

__all__ = ["OTHERS", "OTHERS_THAT_SEE", "choose_model", "model_entry"]

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
    """The Model class and why; arguments and errors as in `model_entry`."""
    entry = model_entry(catalogue, architecture, labels, registered=registered, sees=sees)
    kind = entry.load()
    return kind, Choice("model", architecture, kind.__name__, entry.owner)


def model_entry(
    catalogue: Catalogue,
    architecture: str,
    labels: Sequence[str],
    *,
    registered: bool = True,
    sees: bool = False,
) -> Entry:
    """What is registered for it. Raises UnknownNameError where there is nothing, listing the known.

    Not `registered`: the class for all others even where the architecture has its own. `sees`: the
    model takes pictures.
    """
    models = catalogue["models"]
    own = models.candidates(architecture, labels) if registered else ()
    others = models.candidates(OTHERS_THAT_SEE if sees else OTHERS, labels)
    found = (*own, *others)
    return found[0] if found else models.get(architecture, labels)
