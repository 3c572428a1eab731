"""What a model is to the core: layers with KV, weights, one forward over flat tokens.

T tokens, R sampled rows, E pooled texts, N heads, K KV heads, H head size, D hidden size,
V vocabulary, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

from inferplane.interfaces.batch import Array
from inferplane.interfaces.executor import LayerKV

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ForwardContext", "HeardRows", "Model", "SeesPictures"]


@dataclass(frozen=True, slots=True)
class HeardRows:
    """Which token rows of a step are audio and which are text."""

    audio_rows: Tensor
    """i64[A]"""
    text_rows: Tensor
    """i64[X]; what `attend` takes and gives has these rows alone."""


class ForwardContext(Protocol):
    """What a model may ask of the step it is in."""

    @property
    def segments(self) -> Tensor | None:
        """i32[T] of `StepBatch.segments`; None = all 0."""
        ...

    @property
    def media(self) -> tuple[Tensor, Tensor] | None:
        """(rows i64[n], embeddings [n,D]) that take the place of those tokens' own; only for models
        that see pictures. None = none in this step.
        """
        ...

    @property
    def heard(self) -> HeardRows | None:
        """For models that hear, whose prompts begin with audio; None for all others."""
        ...

    def attend(self, layer: str, q: Tensor, k: Tensor | None, v: Tensor | None) -> Tensor:
        """Write k, v and attend: q[T,N,H], k[T,K,H], v[T,K,Hv] -> [T,N,Hv].

        `k` and `v` are None for a layer that reads another one's audio.
        """
        ...

    def keep(self, layer: str, k: Tensor, v: Tensor) -> None:
        """Write k[A,K,H] and v[A,K,Hv] of the audio rows; only for models that hear."""
        ...


class Model(ABC):
    """One architecture. Built by `Model(config, build)` with `inferplane.layers.build.Builder`."""

    pooling: ClassVar[Literal["mean", "cls", "last"]] = "last"
    """Which hidden state stands for a text, where the checkpoint does not say."""
    has_head: ClassVar[bool] = False
    """`head` does something, and was trained on `pooling`, whatever the checkpoint says."""

    traceable: ClassVar[bool] = True
    """False: its forward reads shapes or does work on the host, so steps run op by op."""

    @abstractmethod
    def kv_layers(self) -> tuple[LayerKV, ...]:
        """The attention layers with a cache, in order of use; known right after construction."""

    @abstractmethod
    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take named checkpoint tensors, in any order; ModelError for missing or misshapen."""

    @abstractmethod
    def forward(self, token_ids: Tensor, positions: Tensor, context: ForwardContext) -> Tensor:
        """Hidden states [T,D] after the final norm for token_ids i32[T] at positions i32[T]."""

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """f32[R,V] for hidden[R,D]; columns beyond the vocabulary are -inf."""

    def head(self, pooled: Tensor) -> Tensor:
        """(optional) f32[E,C] scores of classes for pooled states f32[E,D]; as they are if it has
        no classes.
        """
        return pooled


@runtime_checkable
class SeesPictures(Protocol):
    """(optional) What a Model is besides when prompts may hold pictures: it obeys
    `ForwardContext.media`.
    """

    def encode(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """[N,D]: the embedding of one picture, a row for each of its placeholders, in order.

        `arrays` as in `MediaRows.arrays`, on the device. Raises what torch raises for shapes that
        do not fit.
        """
        ...

    def largest_picture(self) -> Mapping[str, Array]:
        """Arrays of the picture that costs the most, of any content: memory is measured with it."""
        ...
