"""Which shapes exist: one concept for graph capture, tracing and ahead-of-time compilation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Bucket", "ShapePolicy", "StepShape"]


@dataclass(frozen=True, slots=True)
class StepShape:
    """The size of one step; `context_blocks` counts blocks over all its sequences."""

    num_tokens: int
    num_seqs: int
    num_decodes: int
    max_query: int
    max_context: int
    context_blocks: int


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """An upper bound on StepShape; `str(bucket)` names its cache entry. 0 = not a dimension."""

    graph: Literal["decode", "prefill", "mixed"]
    num_tokens: int
    num_seqs: int
    max_query: int = 0
    max_context: int = 0
    context_blocks: int = 0
    rectangular: bool = False
    """Tokens lie as num_seqs rows of max_query; else packed."""

    def holds(self, shape: StepShape) -> bool:
        """Whether a step of this shape fits."""
        if shape.num_decodes == shape.num_seqs:
            kind = "decode"
        else:
            kind = "mixed" if shape.num_decodes else "prefill"
        tokens = shape.num_seqs * self.max_query if self.rectangular else shape.num_tokens
        pairs = (
            (self.max_query, shape.max_query),
            (self.max_context, shape.max_context),
            (self.context_blocks, shape.context_blocks),
        )
        return (
            self.graph in (kind, "mixed")
            and tokens <= self.num_tokens
            and shape.num_seqs <= self.num_seqs
            and all(not most or asked <= most for most, asked in pairs)
        )

    def __str__(self) -> str:
        parts = [self.graph, f"t{self.num_tokens}", f"s{self.num_seqs}"]
        for letter, size in (
            ("q", self.max_query),
            ("c", self.max_context),
            ("b", self.context_blocks),
        ):
            if size:
                parts.append(f"{letter}{size}")
        return "-".join([*parts, "rect"] if self.rectangular else parts)


class ShapePolicy:
    """Pure and host-only. This base class is the policy without buckets."""

    def buckets(self) -> tuple[Bucket, ...]:
        """All shapes that may run, largest first; this is the warm-up order."""
        return ()

    def select(self, shape: StepShape) -> Bucket | None:
        """The bucket for a step, a function of `shape` alone; None = eager, unpadded."""
        return None

    def admits(self, shape: StepShape) -> bool:
        """Whether the scheduler may grow a step to `shape`; cheap, and may only say no."""
        return True
