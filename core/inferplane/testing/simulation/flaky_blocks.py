"""Blocks of a device whose memory may be refused."""

from __future__ import annotations

from inferplane.scheduling.block_manager import BlockManager
from inferplane.scheduling.hits import Hit
from inferplane.scheduling.sequence import Sequence

__all__ = ["FlakyBlocks"]


class FlakyBlocks(BlockManager):
    """Refuses one allocation on demand, as a device may."""

    countdown = 0
    refused = False

    def allocate(
        self,
        sequence: Sequence,
        num_tokens: int,
        hit: Hit | None = None,
        lookahead: int = 0,
        whole_prompt: bool = False,
        reserve: int = 0,
    ) -> tuple[list[int], ...] | None:
        """The real thing, but for the one that fails."""
        if self.countdown:
            self.countdown -= 1
            if not self.countdown:
                self.refused = True
                return None
        return super().allocate(sequence, num_tokens, hit, lookahead, whole_prompt, reserve)
