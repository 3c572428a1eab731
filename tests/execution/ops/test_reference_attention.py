"""The reference attention against torch's own in float64, and what must not change it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inferplane.ops.reference.attention import AttentionRule, PagedContext, attend, write_and_attend

BLOCK = 4


class Step:
    """Two sequences, the second with a cached prefix, in scattered blocks of a random cache."""

    def __init__(self, seed: int = 0, heads: int = 4, kv_heads: int = 2, dim: int = 8) -> None:
        random = torch.Generator().manual_seed(seed)
        self.lengths, self.queries = (7, 13), (7, 5)
        self.k = [torch.randn(n, kv_heads, dim, generator=random) for n in self.lengths]
        self.v = [torch.randn(n, kv_heads, dim, generator=random) for n in self.lengths]
        self.q = [torch.randn(n, heads, dim, generator=random) for n in self.queries]
        self.tables = torch.tensor([[3, 7, 0, 0], [5, 1, 9, 4]], dtype=torch.int32)
        self.kv_heads, self.dim = kv_heads, dim

    def run(self, rule: AttentionRule, sinks: Tensor | None = None, junk: float = 1e4) -> Tensor:
        shape = (12 * BLOCK, self.kv_heads, self.dim)
        cache = (torch.full(shape, junk), torch.full(shape, junk))
        new = self.new_rows()
        for which, (length, count) in enumerate(zip(self.lengths, self.queries, strict=True)):
            old = self.slots(which)[: length - count]
            cache[0][old] = self.k[which][: length - count]
            cache[1][old] = self.v[which][: length - count]
        return write_and_attend(
            torch.cat(self.q),
            torch.cat([k[-n:] for k, n in zip(self.k, self.queries, strict=True)]),
            torch.cat([v[-n:] for v, n in zip(self.v, self.queries, strict=True)]),
            cache,
            torch.cat([self.slots(0)[-7:], self.slots(1)[-5:]]).int(),
            PagedContext(self.tables, new[0], new[1], BLOCK),
            rule,
            sinks,
        )

    def new_rows(self) -> tuple[Tensor, Tensor]:
        seq = torch.tensor([0] * 7 + [1] * 5, dtype=torch.int32)
        positions = torch.tensor([*range(7), *range(8, 13)], dtype=torch.int32)
        return seq, positions

    def slots(self, which: int) -> Tensor:
        place = torch.arange(self.lengths[which])
        return self.tables[which][place // BLOCK].long() * BLOCK + place % BLOCK

    def expected(self, rule: AttentionRule, sinks: Tensor | None = None) -> Tensor:
        return torch.cat([self.plain(which, rule, sinks) for which in (0, 1)]).float()

    def plain(self, which: int, rule: AttentionRule, sinks: Tensor | None) -> Tensor:
        q, k, v = (x[which].double().transpose(0, 1) for x in (self.q, self.k, self.v))
        k, v = (x.repeat_interleave(q.shape[0] // self.kv_heads, 0) for x in (k, v))
        scores = q @ k.transpose(1, 2) * rule.scale
        if rule.softcap:
            scores = rule.softcap * torch.tanh(scores / rule.softcap)
        rows = torch.arange(self.lengths[which] - self.queries[which], self.lengths[which])
        columns = torch.arange(self.lengths[which])
        hidden = columns > rows[:, None]
        if rule.window:
            hidden |= columns <= rows[:, None] - rule.window
        scores = scores.masked_fill(hidden, -torch.inf)
        if sinks is not None:
            sink = sinks.double()[:, None, None].expand(-1, scores.shape[1], 1)
            scores = torch.cat((scores, sink), -1)
        weights = scores.softmax(-1)[..., : self.lengths[which]]
        return (weights @ v).transpose(0, 1)


@pytest.mark.parametrize("heads", [(4, 2), (3, 3), (6, 1)])
@pytest.mark.parametrize(
    "rule",
    [
        AttentionRule(0.35),
        AttentionRule(0.35, window=3),
        AttentionRule(0.35, window=1),
        AttentionRule(0.9, softcap=2.0),
        AttentionRule(0.35, window=100, softcap=30.0),
    ],
)
def test_it_agrees_with_plain_attention_in_float64(
    heads: tuple[int, int], rule: AttentionRule
) -> None:
    step = Step(heads=heads[0], kv_heads=heads[1])
    torch.testing.assert_close(step.run(rule), step.expected(rule), atol=1e-5, rtol=1e-4)


def test_sinks_take_their_share_of_the_softmax() -> None:
    step, sinks = Step(), torch.tensor([0.5, -2.0, 3.0, 0.0])
    got = step.run(AttentionRule(0.35), sinks)
    torch.testing.assert_close(got, step.expected(AttentionRule(0.35), sinks), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("junk", [float("inf"), float("nan"), 3e38])
def test_unused_slots_never_reach_the_output(junk: float) -> None:
    got = Step().run(AttentionRule(0.35, window=5), junk=junk)
    assert torch.equal(got, Step().run(AttentionRule(0.35, window=5), junk=0.0))


def test_a_step_in_pieces_is_the_same_step() -> None:
    torch.manual_seed(0)
    cache = (torch.randn(1024, 8, 64), torch.randn(1024, 8, 64))
    tables = torch.arange(64, dtype=torch.int32).view(1, 64)
    q = torch.randn(100, 8, 64)
    positions = torch.arange(900, 1000, dtype=torch.int32)
    rows = torch.zeros(100, dtype=torch.int32)
    whole = attend(q, cache, PagedContext(tables, rows, positions, 16), AttentionRule(0.1))
    for row in (0, 31, 32, 99):
        only = slice(row, row + 1)
        context = PagedContext(tables, rows[only], positions[only], 16)
        torch.testing.assert_close(attend(q[only], cache, context, AttentionRule(0.1)), whole[only])


def test_it_traces_without_a_read_by_the_host() -> None:
    step = Step()
    seq, positions = step.new_rows()
    cache = (torch.zeros(48, 2, 8), torch.zeros(48, 2, 8))

    def run(q: Tensor, tables: Tensor, seq: Tensor, positions: Tensor) -> Tensor:
        context = PagedContext(tables, seq, positions, BLOCK)
        return attend(q, cache, context, AttentionRule(0.3, 5, 2.0))

    traced = torch.export.export(
        _AsModule(run), (torch.cat(step.q), step.tables, seq, positions), strict=False
    )
    out = traced.module()(torch.cat(step.q), step.tables, seq, positions)
    assert out.shape == (12, 4, 8)


class _AsModule(torch.nn.Module):
    def __init__(self, run: object) -> None:
        super().__init__()
        self.run = run

    def forward(self, *args: Tensor) -> Tensor:
        return self.run(*args)  # type: ignore[operator,no-any-return]
