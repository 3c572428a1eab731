"""Level 3, allocator and memory: what is held is told, by purpose, and given back when asked."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from inferplane.errors import UnsupportedError
from inferplane.interfaces import Tag
from inferplane.testing.conformance.base import Conformance
from inferplane.testing.conformance.parts import Parts
from inferplane.testing.conformance.subject import Subject

__all__ = ["AllocatorConformance"]

SIZE = 3 << 20
SLACK = 1 << 20
TAGS: tuple[Tag, ...] = ("weights", "kv", "activations", "graphs")


class AllocatorConformance(Conformance):
    """L3 for the device's allocator and memory report."""

    level: ClassVar[int] = 3
    wide_only: ClassVar[bool] = True

    def test_memory_adds_up(self, parts: Parts) -> None:
        """The core sizes the KV cache by it; unknown is 0, never a guess."""
        report = parts.runtime.memory()
        assert 0 <= report.free <= report.total
        assert 0 <= report.reserved <= max(report.total, report.reserved)
        assert report.total == 0 or report.reserved < report.total

    @pytest.mark.parametrize("tag", TAGS)
    def test_every_byte_is_charged_to_its_purpose(self, parts: Parts, tag: Tag) -> None:
        """And no longer once nobody holds it."""
        before = dict(parts.allocator.used())
        with parts.allocator.pool(tag):
            held = torch.zeros(SIZE, dtype=torch.uint8, device=parts.torch_device)
        during = dict(parts.allocator.used())
        assert SIZE <= during.get(tag, 0) - before.get(tag, 0) <= SIZE + SLACK
        for other in set(TAGS) - {tag}:
            assert during.get(other, 0) == before.get(other, 0), other
        del held

    def test_what_is_outside_a_pool_is_not_charged(self, parts: Parts) -> None:
        """A ledger that counts everything counts nothing."""
        before = dict(parts.allocator.used())
        held = torch.zeros(SIZE, dtype=torch.uint8, device=parts.torch_device)
        assert dict(parts.allocator.used()) == before
        del held

    @pytest.mark.parametrize("keep", [True, False])
    def test_sleep_gives_memory_back_and_waking_restores_it(
        self, subject: Subject, parts: Parts, keep: bool
    ) -> None:
        """With a copy the same bytes; an option may bring what the device does not claim."""
        with parts.allocator.pool("weights"):
            held = torch.arange(SIZE, dtype=torch.int32, device=parts.torch_device)
        during = parts.allocator.used().get("weights", 0)
        try:
            parts.allocator.release("weights", keep)
        except UnsupportedError as reason:
            assert not subject.caps.sleep, reason
            pytest.skip(str(reason))
        assert parts.allocator.used().get("weights", 0) <= during - 4 * SIZE + SLACK
        parts.allocator.restore("weights")
        assert held.shape == (SIZE,) and parts.allocator.used().get("weights", 0) >= 4 * SIZE
        if keep:
            assert torch.equal(held.cpu(), torch.arange(SIZE, dtype=torch.int32))
