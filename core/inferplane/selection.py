"""Choose one of several candidates, once, and say why each other one was not chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from inferplane.errors import ConfigError
from inferplane.interfaces import Choice, Reasons
from inferplane.registry import Entry

__all__ = ["REFERENCE", "choose", "order"]

REFERENCE = "reference"
"""Name of the core's own implementation; may be asked for like any other."""


def choose(
    kind: str,
    site: str,
    candidates: Sequence[Entry],
    reasons: Callable[[Entry], Reasons],
    preferred: Sequence[str] = (),
    requested: str = "auto",
) -> tuple[Entry | None, Choice]:
    """The first candidate without reasons against it, or None: the core's reference.

    Asked in this order: `requested` (a name or an owner; "auto" or "" = none), `preferred` (names
    or owners, best first), priority, name. Raises ConfigError when what the user requested is
    unknown or refused; an unrequested refusal is only recorded in `Choice.rejected`.
    """
    rejected: dict[str, Reasons] = {}
    chosen = requested if requested not in ("", "auto") else ""
    if chosen == REFERENCE:
        for entry in candidates:
            rejected[_label(kind, entry, rejected)] = ("the reference was asked for",)
        return None, Choice(kind, site, REFERENCE, "inferplane", rejected)
    ordered = order(candidates, preferred)
    if chosen:
        ordered = [entry for entry in ordered if chosen in (entry.name, entry.owner)]
        if not ordered:
            known = ", ".join(sorted({_title(kind, e) for e in candidates} | {REFERENCE}))
            raise ConfigError(f"no {kind} {chosen!r} for {site} (known here: {known})")
    winner: Entry | None = None
    for entry in ordered:
        against = ("not needed: an earlier one fits",) if winner else reasons(entry)
        if against:
            rejected[_label(kind, entry, rejected)] = against
        else:
            winner = entry
    if winner is None and chosen:
        told = "; ".join(f"{name}: {', '.join(why)}" for name, why in rejected.items())
        raise ConfigError(f"{kind} {chosen!r} was asked for, but cannot serve {site}: {told}")
    if winner is None:
        return None, Choice(kind, site, REFERENCE, "inferplane", rejected)
    return winner, Choice(kind, site, winner.name, winner.owner, rejected)


def order(candidates: Sequence[Entry], preferred: Sequence[str]) -> list[Entry]:
    """Candidates as they are asked: preferred names or owners, then priority, then name."""
    places = {name: place for place, name in enumerate(preferred)}
    last = len(places)

    def rank(entry: Entry) -> tuple[int, int, str, str]:
        place = min(places.get(entry.name, last), places.get(entry.owner, last))
        return place, -entry.priority, entry.name, entry.owner

    return sorted(candidates, key=rank)


def _title(kind: str, entry: Entry) -> str:
    """What a user calls it: kernels share the op's name, so their owner tells them apart."""
    return entry.owner if kind == "op" else entry.name


def _label(kind: str, entry: Entry, taken: dict[str, Reasons]) -> str:
    title = _title(kind, entry)
    return title if title not in taken else f"{title} ({entry.target})"
