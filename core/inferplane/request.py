"""A request as it crosses from front end to engine, and the ways it can end."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from inferplane.media import MediaItem
from inferplane.sampling_params import SamplingParams

__all__ = ["FinishReason", "Request"]


class FinishReason(StrEnum):
    """Why a sequence ended; each sequence has exactly one."""

    STOP = "stop"
    """End token, stop id or stop string."""
    LENGTH = "length"
    """max_tokens or the context is used up."""
    ABORT = "abort"
    """The client went away or asked."""
    ERROR = "error"
    """It failed; an error code comes with it."""


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One sequence to run. A user's request with n completions is n of these.

    The engine owns all state that follows from it; the front end keeps only a handle.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams = SamplingParams()
    """`seed` and `max_tokens` are set by the client before it is sent."""
    eos_ids: tuple[int, ...] = ()
    priority: int = 0
    """Smaller runs first, under policy "priority"."""
    cache_domain: bytes = b""
    """Prefix blocks are shared only within equal domains; made by the server, never by a caller."""
    deadline_s: float | None = None
    """Seconds from admission after which the request ends with `deadline_exceeded`."""
    pooling: bool = False
    """Wants the pooled vector, samples nothing."""
    second_start: int = 0
    """Where the second text of a pair begins, for encoders that tell the two apart; 0 = one text.
    """
    items: tuple[MediaItem, ...] = ()
    """Pictures in the prompt, in order of their offsets, no two of which overlap."""
