"""Laws of the ledger: what lives is charged, what sleeps costs nothing and comes back."""

from __future__ import annotations

import pytest
import torch

from inferplane.execution.torch_allocator import TorchAllocator


def test_a_purpose_pays_for_what_lives_and_not_for_what_was_dropped() -> None:
    allocator = TorchAllocator()
    with allocator.pool("weights"):
        kept = torch.zeros(100, dtype=torch.float32)
        torch.zeros(10**6)
    assert allocator.used() == {"weights": 400}
    del kept
    assert allocator.used() == {"weights": 0}


def test_views_and_tensors_made_outside_cost_nothing() -> None:
    allocator = TorchAllocator()
    outside = torch.zeros(1000)
    with allocator.pool("weights"):
        kept = [torch.ones(8, 8).t(), outside[10:].view(-1), outside.add_(1)]
        kept.append(kept[0][2:4])
    assert allocator.used() == {"weights": 256}


def test_purposes_are_kept_apart() -> None:
    allocator = TorchAllocator()
    with allocator.pool("weights"):
        weights = torch.zeros(10)
        with allocator.pool("kv"):
            kv = torch.zeros(20)
    assert allocator.used() == {"weights": 40, "kv": 80}
    assert len(weights) + len(kv) == 30


def test_many_temporaries_leave_a_short_ledger() -> None:
    allocator = TorchAllocator()
    with allocator.pool("weights"):
        kept = [torch.zeros(1) for _ in range(10)]
        for _ in range(5000):
            torch.zeros(1)
    assert allocator.used()["weights"] == 4 * len(kept)
    assert len(allocator._held["weights"]) == len(kept)


@pytest.mark.parametrize("keep_copy", [True, False])
def test_released_memory_is_gone_and_every_view_is_whole_after_restore(keep_copy: bool) -> None:
    allocator = TorchAllocator()
    with allocator.pool("weights"):
        tensor = torch.arange(12.0).view(3, 4)
    view = tensor[1]
    allocator.release("weights", keep_copy)
    assert allocator.used() == {"weights": 0}
    assert tensor.untyped_storage().nbytes() == 0
    allocator.restore("weights")
    assert allocator.used() == {"weights": 48}
    assert view.tolist() == ([4.0, 5.0, 6.0, 7.0] if keep_copy else [0.0] * 4)


def test_releasing_twice_keeps_the_copy() -> None:
    allocator = TorchAllocator()
    with allocator.pool("kv"):
        tensor = torch.ones(4)
    allocator.release("kv", keep_copy=True)
    allocator.release("kv", keep_copy=True)
    allocator.restore("kv")
    allocator.restore("kv")
    assert tensor.tolist() == [1.0] * 4


def test_inference_tensors_are_charged_and_restored() -> None:
    allocator = TorchAllocator()
    with torch.inference_mode(), allocator.pool("weights"):
        tensor = torch.ones(4)
    allocator.release("weights", keep_copy=True)
    allocator.restore("weights")
    assert tensor.tolist() == [1.0] * 4
