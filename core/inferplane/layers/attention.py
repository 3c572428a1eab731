"""Self-attention of a decoder layer: projections, head norms, rotation, output.

T tokens, D model size, N heads, K KV heads, H head size; counts are those of this rank.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inferplane.interfaces import ForwardContext
from inferplane.layers.build import AttentionSite, Builder
from inferplane.layers.stacked import stacked_linear

__all__ = ["SelfAttention"]


class SelfAttention:
    """hidden[T,D] -> [T,D], with the KV cache of layer `name`."""

    __slots__ = (
        "_heads",
        "_sizes",
        "k_norm",
        "name",
        "norm_rotary",
        "output",
        "q_norm",
        "qkv",
        "rotary",
        "width",
    )

    def __init__(
        self,
        build: Builder,
        prefix: str,
        layer: int,
        *,
        bias: bool = False,
        output_bias: bool = False,
        qk_norm: bool = False,
        norm_offset: float = 0.0,
        stacked: str = "",
    ) -> None:
        """`prefix` names the checkpoint's tensors: `prefix`.q_proj.weight and so on.

        `stacked` = the one tensor that holds queries, keys and values, where there is such.
        """
        config = build.config
        size, dim = config.hidden_size, config.head_dim
        q_heads, kv_heads = _heads_of_rank(build)
        self.name = prefix
        self.width = len(q_heads) * dim
        self._heads = (len(q_heads) + 2 * len(kv_heads), dim)
        self._sizes = [len(q_heads), len(kv_heads), len(kv_heads)]
        parts = [range(h.start * dim, h.stop * dim) for h in (q_heads, kv_heads, kv_heads)]
        outputs = [heads * dim for heads in (config.num_heads, *[config.num_kv_heads] * 2)]
        if stacked:
            name = f"{prefix}.{stacked}"
            self.qkv = stacked_linear(build, name, size, outputs, parts, bias=bias)
        else:
            names = [f"{prefix}.{which}_proj" for which in "qkv"]
            self.qkv = build.merged_linear(names, size, outputs, bias, parts)
        self.output = build.linear(
            f"{prefix}.o_proj", config.num_heads * dim, size, output_bias, split="inputs"
        )
        self.q_norm = build.norm(f"{prefix}.q_norm", dim, norm_offset) if qk_norm else None
        self.k_norm = build.norm(f"{prefix}.k_norm", dim, norm_offset) if qk_norm else None
        rope = config.rope if config.layer_windows[layer] is None else config.window_rope
        dims = {
            "N": len(q_heads),
            "K": len(kv_heads),
            "H": dim,
            "R": int(dim * rope.partial) // 2,
        }
        self.rotary = build.op("rotary/1", **dims)
        self.norm_rotary = build.fusion("norm_rotary/1", **dims) if qk_norm else None
        site = AttentionSite(
            prefix,
            len(q_heads),
            len(kv_heads),
            dim,
            dim,
            scale=config.attention_scale,
            window=config.layer_windows[layer],
            softcap=config.attention_softcap,
        )
        build.announce(site, kv_heads)

    def __call__(self, x: Tensor, turn: tuple[Tensor, Tensor], context: ForwardContext) -> Tensor:
        """`turn` = (cos, sin) of this step's positions."""
        return self.finish(self.qkv(x), turn, context)

    def finish(self, qkv: Tensor, turn: tuple[Tensor, Tensor], context: ForwardContext) -> Tensor:
        """The same from the merged projections on."""
        q, k, v = torch.split(qkv.view(-1, *self._heads), self._sizes, 1)
        q, k = self._turned(q, k, turn)
        return self.output(context.attend(self.name, q, k, v).reshape(-1, self.width))

    def _turned(self, q: Tensor, k: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        q_norm, k_norm = self.q_norm, self.k_norm
        if q_norm is not None and k_norm is not None:
            if self.norm_rotary is not None:
                weights = q_norm.weight, k_norm.weight
                fused: tuple[Tensor, Tensor] = self.norm_rotary(
                    q, k, *weights, q_norm.eps, *turn, False
                )
                return fused
            q, k = q_norm(q), k_norm(k)
        turned: tuple[Tensor, Tensor] = self.rotary(q, k, *turn, False)
        return turned


def _heads_of_rank(build: Builder) -> tuple[range, range]:
    """(query heads, KV heads); a KV head is repeated where there are more ranks than KV heads."""
    config = build.config
    q_heads = build.part(config.num_heads, "the number of attention heads")
    if config.num_kv_heads % build.world_size == 0:
        return q_heads, build.part(config.num_kv_heads, "the number of KV heads")
    group = config.num_heads // config.num_kv_heads
    first, last = q_heads.start // group, (q_heads.stop - 1) // group
    if first != last:
        build.part(config.num_kv_heads, "the number of KV heads")
    return q_heads, range(first, last + 1)
