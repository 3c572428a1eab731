"""Which part of a model each core holds: whole heads, equal pieces of rows, zeros beyond the end.

Columns of q, k, v, gate and up and the vocabulary are divided by rows of their matrices, the output
and down projections by columns, so that two sums a layer put a step together again (Shoeybi et al.,
"Megatron-LM", 2019). Everything else is on every core.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Sharding"]

_QUERY, _OUTPUT = ".self_attn.q_proj.", ".self_attn.o_proj."
_KEY_VALUE = (".self_attn.k_proj.", ".self_attn.v_proj.")
_ROWS = (".mlp.gate_proj.", ".mlp.up_proj.", "model.embed_tokens.", "lm_head.")
_COLUMNS = (".mlp.down_proj.",)


@dataclass(frozen=True, slots=True)
class Sharding:
    """No number needs to be divisible: heads that are missing are zeros and add nothing."""

    cores: int
    num_heads: int
    num_kv_heads: int
    head_dim: int

    @property
    def kv_heads_per_core(self) -> int:
        """KV heads that each core holds, real or not."""
        return -(-self.num_kv_heads // self.cores)

    def kv_heads(self, core: int) -> tuple[int, ...]:
        """The core's KV heads; -1 = zeros. Where cores outnumber heads several hold the same."""
        if self.num_kv_heads < self.cores:
            head = core // self._copies
            return (head if head < self.num_kv_heads else -1,)
        first = core * self.kv_heads_per_core
        heads = range(first, first + self.kv_heads_per_core)
        return tuple(head if head < self.num_kv_heads else -1 for head in heads)

    def heads(self, core: int) -> tuple[int, ...]:
        """The core's query heads, as many for each of its KV heads; -1 = zeros."""
        group, copies = self.num_heads // self.num_kv_heads, self._copies
        share = -(-group // copies)
        first = core % copies * share
        return tuple(
            head * group + place if head >= 0 and place < group else -1
            for head in self.kv_heads(core)
            for place in range(first, first + share)
        )

    def cut(self, name: str, weight: Tensor, core: int) -> Tensor:
        """The core's part of a checkpoint's tensor; shapes are the same on every core."""
        if self.cores == 1:
            return weight
        if _QUERY in name:
            return self._whole_heads(weight, self.heads(core), 0)
        if any(part in name for part in _KEY_VALUE):
            return self._whole_heads(weight, self.kv_heads(core), 0)
        if _OUTPUT in name:
            return self._whole_heads(weight, self.heads(core), 1)
        if any(part in name for part in _ROWS):
            return self._piece(weight, core)
        if any(part in name for part in _COLUMNS):
            return self._piece(weight.T, core).T.contiguous()
        return weight

    @property
    def _copies(self) -> int:
        """Cores that hold the same KV head and share its query heads."""
        return max(1, self.cores // self.num_kv_heads)

    def _whole_heads(self, weight: Tensor, heads: tuple[int, ...], dim: int) -> Tensor:
        chosen = torch.tensor(heads)
        split = torch.unflatten(weight, dim, (-1, self.head_dim))
        split = split.index_select(dim, chosen.clamp(min=0))
        missing = (chosen < 0).view(*[1] * dim, -1, *[1] * (split.dim() - dim - 1))
        return split.masked_fill(missing, 0.0).flatten(dim, dim + 1).contiguous()

    def _piece(self, weight: Tensor, core: int) -> Tensor:
        rows = -(-weight.shape[0] // self.cores)
        piece = weight[core * rows : (core + 1) * rows]
        return F.pad(piece, (0, 0, 0, rows - piece.shape[0])).contiguous()
