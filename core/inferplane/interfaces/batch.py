"""One step as host arrays: C-contiguous numpy, unpadded, int32 unless said, decodes first.

T tokens, S sequences, R sampled sequences (R <= S), P widest table, G KV groups, V vocabulary,
L logprobs, D hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np

__all__ = [
    "Array",
    "Logprobs",
    "MediaRows",
    "Pending",
    "Ragged",
    "SamplingBatch",
    "StepBatch",
    "StepResult",
]

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows of different length: row r owns `ids[start[r]:start[r + 1]]` and as many `values`."""

    start: Array
    """i32[R+1]"""
    ids: Array
    """i32[N]"""
    values: Array
    """[N]"""


@dataclass(frozen=True, slots=True)
class SamplingBatch:
    """How each of the R sampled rows draws its token.

    Randomness is Philox4x32-10 keyed by (seed, position), so a result depends on no neighbour.
    """

    temperature: Array
    """f32[R]; 0 = greedy, ties to the lowest id."""
    top_k: Array
    """i32[R]; 0 = off."""
    top_p: Array
    """f32[R]; 1 = off."""
    min_p: Array
    """f32[R]; 0 = off."""
    seed: Array
    """u64[R]; always set."""
    position: Array
    """u64[R]; index of the token drawn."""
    num_logprobs: Array
    """i32[R]; -1 = none."""
    penalties: Array | None = None
    """f32[R,3] presence, frequency, repetition."""
    seen: Ragged | None = None
    """Tokens the penalties count; value = count in the output, 0 = in the prompt only."""
    bias: Ragged | None = None
    """f32 added to logits; -inf forbids (min_tokens, bad words, allowed tokens)."""
    bitmask: Array | None = None
    """u32[R, ceil(V/32)]; bit set = allowed."""


@dataclass(frozen=True, slots=True)
class MediaRows:
    """The part of one picture that a step reads; n of its N placeholders are among the tokens.

    Each step says all that is needed again, so the executor may forget whatever it made of it.
    """

    content_id: str
    """Equal ids have equal `arrays`: what was encoded once may serve again."""
    arrays: Mapping[str, Array]
    """What the model's encoder takes, by the names its class gives."""
    count: int
    """N, the rows that its embedding must have."""
    rows: Array
    """[n]; token rows whose embeddings are replaced."""
    picks: Array
    """[n]; rows of the picture's embedding that go there."""


@dataclass(frozen=True, slots=True)
class StepBatch:
    """The input of one step."""

    step: int
    num_decodes: int
    """The first `num_decodes` sequences had their prompt done before this step."""
    token_ids: Array
    """[T]; ignored where token_source >= 0."""
    token_source: Array
    """[T]; -1 = host value, else row r of the previous step's `token_ids[:, 0]`."""
    positions: Array
    """[T]"""
    query_start: Array
    """[S+1]"""
    seq_lens: Array
    """[S]; context including this step."""
    lanes: Array
    """[S]; stable number in [0, max_num_seqs) while the sequence runs."""
    block_tables: tuple[Array, ...]
    """G x [S,P]; unused and freed entries 0."""
    slots: tuple[Array, ...]
    """G x [T] = block * block_size + offset."""
    sampled: Array
    """[R]; sequences that must yield a token."""
    sampling: SamplingBatch | None = None
    """Rows as in `sampled`."""
    drafts: Array | None = None
    """[S]; how many of the last tokens of each query are drafts."""
    host_rows: Array | None = None
    """Rows of `sampled` whose logits are wanted; their token is drawn on the host."""
    scored: Array | None = None
    """[N,2] (token row, id): log-probability of id after that row."""
    num_scored_logprobs: int = 0
    """Best alternatives wanted with each scored row: the L of `StepResult.scores`."""
    embedded: Array | None = None
    """[E]; sequences whose pooled vector is wanted; never chunked."""
    segments: Array | None = None
    """[T]; 1 in the second text of a pair, 0 elsewhere; None = all 0. Only for encoders."""
    media: tuple[MediaRows, ...] = ()
    """Every picture that has placeholders among the tokens; only where the executor
    `reads_media`."""
    zeroed: Array | None = None
    """Blocks to fill with zeros before the step."""
    copied: Array | None = None
    """[N,2] (source, target) blocks to copy before the step, after zeroing."""
    released: Array | None = None
    """Lanes that ended since the previous step, each told once."""


@dataclass(frozen=True, slots=True)
class Logprobs:
    """f32[N,1+L] values and i32[N,1+L] ids; column 0 = the token drawn or asked."""

    values: Array
    ids: Array
    ranks: Array | None = None
    """i32[N]; rank of column 0 among all tokens, 1 = most likely."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step produced, rows as in `StepBatch.sampled`."""

    token_ids: Array
    """i32[R,W]: accepted drafts, then the drawn token, -1 padded; W = 1 without drafts."""
    logprobs: Logprobs | None = None
    """For `sampled`."""
    scores: Logprobs | None = None
    """For `scored`."""
    logits: Array | None = None
    """f32[len(host_rows),V]"""
    embeddings: Array | None = None
    """f32[E,D]"""
    next_drafts: Array | None = None
    """[R,K] drafts made on the device, -1 padded."""
    failed: Array | None = None
    """Rows of `sampled` whose logits were not finite."""


ResultT = TypeVar("ResultT", covariant=True)


class Pending(Protocol[ResultT]):
    """Work under way."""

    def result(self) -> ResultT:
        """Wait for the device (the only place that may) and return; called once.

        Raises DeviceError.
        """
        ...
