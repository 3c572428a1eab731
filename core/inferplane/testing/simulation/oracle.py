"""What each request would produce alone: the truth that every schedule must reproduce."""

from __future__ import annotations

from dataclasses import dataclass, field

from inferplane.request import FinishReason, Request
from inferplane.scheduling.sequence import Sequence

__all__ = ["EOS", "STOP_ID", "Life", "live_alone"]

EOS = 1
STOP_ID = 2
_FIRST_PLAIN = 3
_MASK = (1 << 64) - 1


@dataclass(slots=True)
class Life:
    """One request from its admission to its end, seen from outside."""

    request: Request
    sequence: Sequence
    tokens: list[int]
    """Prompt and all outputs of a solo run."""
    chains: list[int]
    """For each position a number that stands for every token up to it."""
    finish: FinishReason
    stop_reason: int | None
    deadline_s: float | None
    emitted: int = 0
    """Outputs the client has seen."""
    may_fail: bool = False
    """A fault was injected into one of its rows."""
    ended: bool = False
    last_computed: int = 0
    last_run: int = 0
    read_run: int = -1
    """The stay in the running list whose context the device has seen."""
    from_cache: bool = False
    """Whether the context it reads now can only come from the prefix cache."""
    checked: list[list[int]] = field(default_factory=list)
    """For each group and block the version of its content that was compared."""


def live_alone(
    request: Request, max_len: int, vocabulary: int, stop_every: int
) -> tuple[list[int], list[int]]:
    """Tokens and chain of a solo run, up to its end or `max_len`."""
    chain = int.from_bytes(request.cache_domain[:8], "little") + 1
    tokens = list(request.prompt_ids)
    chains = []
    for token in tokens:
        chain = (chain * 6364136223846793005 + token + 1442695040888963407) & _MASK
        chains.append(chain)
    stops = frozenset(request.sampling.stop_token_ids)
    if not request.sampling.ignore_eos:
        stops |= frozenset(request.eos_ids)
    for _ in range(0 if request.pooling else max_len - len(tokens)):
        draw = (chain ^ (chain >> 29)) * 0xBF58476D1CE4E5B9 & _MASK
        if (draw >> 40) % stop_every:
            token = _FIRST_PLAIN + (draw >> 33) % vocabulary
        else:
            token = EOS if draw & 1 else STOP_ID
        tokens.append(token)
        chain = (chain * 6364136223846793005 + token + 1442695040888963407) & _MASK
        chains.append(chain)
        if token in stops:
            break
    return tokens, chains
