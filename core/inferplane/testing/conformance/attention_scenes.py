"""Steps for attention backends, with the truth computed in numpy float64 from whole sequences.

T tokens, S sequences, N heads, K KV heads, H head size, Hv value head size, C context tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from inferplane.execution.quantized_kv import KV_KINDS
from inferplane.interfaces import Array, AttentionSpec, Capabilities, StepBatch

__all__ = ["SCENES", "Scene", "Setting", "attention_truth", "specs"]


@dataclass(frozen=True)
class Scene:
    """Sequences of one step: how many tokens each has in the cache, and how many it adds."""

    name: str
    sequences: tuple[tuple[int, int], ...]
    """(cached, new), decodes first."""
    drafts: int = 0


SCENES = (
    Scene("decode", ((17, 1), (33, 1), (1, 1), (63, 1), (64, 1))),
    Scene("one decode", ((40, 1),)),
    Scene("many decodes", tuple((3 * n + 1, 1) for n in range(12))),
    Scene("prefill", ((0, 13), (0, 1), (0, 50))),
    Scene("one prefill", ((0, 37),)),
    Scene("chunked", ((16, 9), (5, 20), (64, 3))),
    Scene("mixed", ((30, 1), (3, 1), (0, 1), (0, 11), (20, 6))),
    Scene("drafts", ((30, 3), (9, 3), (64, 3)), drafts=2),
)


def specs(caps: Capabilities, block_size: int, dtype: str) -> Iterator[tuple[str, AttentionSpec]]:
    """The attention layers of real models in small: (what is special, spec)."""
    base = AttentionSpec(4, 2, 64, 64, dtype, dtype, 0.125, block_size)
    kinds = {
        "grouped heads": base,
        "as many KV heads": replace(base, num_kv_heads=4),
        "one KV head": replace(base, num_heads=8, num_kv_heads=1),
        "small heads": replace(base, head_dim=16, head_dim_v=16, scale=0.25),
        "large heads": replace(base, head_dim=128, head_dim_v=128, scale=0.09),
        "three heads": replace(base, num_heads=9, num_kv_heads=3),
        "window": replace(base, window=8),
        "window over a block": replace(base, window=block_size + 1),
        "soft cap": replace(base, softcap=5.0),
        "sinks": replace(base, sinks=True),
        "drafts": replace(base, drafts=2),
    }
    yield from kinds.items()
    for kv_dtype in caps.kv_dtypes:
        if kv_dtype not in ("auto", dtype):
            yield f"KV {kv_dtype}", replace(base, kv_dtype=kv_dtype)
        if kv_dtype in KV_KINDS:
            large = replace(kinds["large heads"], kv_dtype=kv_dtype)
            yield f"KV {kv_dtype}, large heads", large


@dataclass
class Setting:
    """One scene for one spec: blocks, batch, random content."""

    spec: AttentionSpec
    scene: Scene
    tables: list[list[int]]
    """Blocks of each sequence."""
    history: list[tuple[Array, Array]]
    """f32 [C,K,H] and [C,K,Hv] of each sequence: what is in the cache before the step."""
    q: Array
    """f32 [T,N,H]"""
    k: Array
    """f32 [T,K,H]"""
    v: Array
    """f32 [T,K,Hv]"""
    sinks: Array | None = None
    """f32 [N]"""
    freed: set[tuple[int, int]] = field(default_factory=set)
    """(sequence, place) of blocks that a window has left behind."""

    @classmethod
    def make(
        cls, spec: AttentionSpec, scene: Scene, num_blocks: int, seed: int = 0, spare: int = 0
    ) -> Setting:
        """Random content in randomly chosen blocks; `spare` blocks stay unused."""
        rng = np.random.default_rng(seed)
        free = (1 + rng.permutation(num_blocks - 1 - spare)).tolist()
        counts = [-(-(c + n) // spec.block_size) for c, n in scene.sequences]
        tables = [[free.pop() for _ in range(count)] for count in counts]
        num_tokens = sum(new for _, new in scene.sequences)

        def normal(*shape: int) -> Array:
            return np.asarray(rng.normal(0, 1, shape), np.float32)

        kv, heads = spec.num_kv_heads, spec.num_heads
        history = [
            (normal(c, kv, spec.head_dim), normal(c, kv, spec.head_dim_v))
            for c, _ in scene.sequences
        ]
        setting = cls(
            spec,
            scene,
            tables,
            history,
            normal(num_tokens, heads, spec.head_dim),
            normal(num_tokens, kv, spec.head_dim),
            normal(num_tokens, kv, spec.head_dim_v),
            normal(heads) if spec.sinks else None,
        )
        setting._forget_what_a_window_left()
        return setting

    def moved(self, seed: int) -> Setting:
        """The same content in other blocks."""
        rng = np.random.default_rng(seed)
        used = sorted(block for table in self.tables for block in table)
        places = dict(zip(used, rng.permutation(used).tolist(), strict=True))
        return replace(self, tables=[[places[b] for b in table] for table in self.tables])

    def batch(self) -> StepBatch:
        """The step; tables of unused KV groups are zero."""
        size, lengths = self.spec.block_size, [n for _, n in self.scene.sequences]
        starts = np.array([c for c, _ in self.scene.sequences], np.int32)
        query_start = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
        owner_T = np.repeat(np.arange(len(lengths)), lengths)
        positions_T = np.arange(len(owner_T)) - query_start[owner_T] + starts[owner_T]
        table_SP = self.table()
        slots_T = table_SP[owner_T, positions_T // size] * size + positions_T % size
        groups = self.spec.group + 1
        drafts = [self.scene.drafts] * len(lengths) if self.scene.drafts else None
        decodes = [c > 0 and n == 1 + self.scene.drafts for c, n in self.scene.sequences]
        return StepBatch(
            step=1,
            num_decodes=decodes.index(False) if False in decodes else len(decodes),
            token_ids=np.arange(len(owner_T), dtype=np.int32),
            token_source=np.full(len(owner_T), -1, np.int32),
            positions=positions_T.astype(np.int32),
            query_start=query_start,
            seq_lens=(starts + lengths).astype(np.int32),
            lanes=np.arange(len(lengths), dtype=np.int32),
            block_tables=tuple(table_SP for _ in range(groups)),
            slots=tuple(slots_T.astype(np.int32) for _ in range(groups)),
            sampled=np.arange(len(lengths), dtype=np.int32),
            drafts=None if drafts is None else np.array(drafts, np.int32),
        )

    def table(self) -> Array:
        """i32 [S,P], 0 where nothing is."""
        out = np.zeros((len(self.tables), max(map(len, self.tables))), np.int32)
        for row, table in enumerate(self.tables):
            for place, block in enumerate(table):
                out[row, place] = 0 if (row, place) in self.freed else block
        return out

    def slots_of(self, sequence: int, positions: Sequence[int]) -> Array:
        """i32: where these positions of a sequence lie."""
        size, table = self.spec.block_size, self.tables[sequence]
        return np.array([table[p // size] * size + p % size for p in positions], np.int32)

    def kept(self, sequence: int) -> list[int]:
        """Cached positions that are still in the table."""
        size, cached = self.spec.block_size, self.scene.sequences[sequence][0]
        return [p for p in range(cached) if (sequence, p // size) not in self.freed]

    def _forget_what_a_window_left(self) -> None:
        if self.spec.window is None:
            return
        for row, (cached, _) in enumerate(self.scene.sequences):
            outside = max(0, cached + 1 - self.spec.window) // self.spec.block_size
            self.freed |= {(row, place) for place in range(outside)}


def attention_truth(setting: Setting, stored: Sequence[tuple[Array, Array]]) -> Array:
    """f64 [T,N,Hv]; `stored` holds keys and values of each whole sequence as the cache has them."""
    spec, out, row = setting.spec, [], 0
    group = spec.num_heads // spec.num_kv_heads
    for (cached, new), (keys, values) in zip(setting.scene.sequences, stored, strict=True):
        q_QNH = setting.q[row : row + new].astype(np.float64)
        row += new
        k_CNH, v_CNH = (x.astype(np.float64).repeat(group, axis=1) for x in (keys, values))
        scores = np.einsum("qnh,cnh->nqc", q_QNH, k_CNH) * spec.scale
        if spec.softcap is not None:
            scores = spec.softcap * np.tanh(scores / spec.softcap)
        distance = np.arange(cached, cached + new)[:, None] - np.arange(cached + new)[None]
        hidden = (distance < 0) | (distance >= (spec.window or cached + new))
        scores = np.where(hidden, -np.inf, scores)
        if setting.sinks is not None:
            sinks = np.broadcast_to(setting.sinks[:, None, None], (*scores.shape[:2], 1))
            scores = np.concatenate((scores, sinks), axis=-1)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        out.append(np.einsum("nqc,cnh->qnh", weights[..., : cached + new], v_CNH))
    return np.concatenate(out)
