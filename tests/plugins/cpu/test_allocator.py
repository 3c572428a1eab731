"""Laws of the host allocator: maps are charged, given back and restored in place."""

from __future__ import annotations

import pytest
import torch

from inferplane_cpu.allocator import HostAllocator

SIZE = 3 << 20


def test_a_map_is_zero_and_charged_while_a_view_of_it_lives() -> None:
    allocator = HostAllocator()
    view = allocator.map(SIZE)[10:20].view(torch.int16)
    assert not view.any() and allocator.used() == {"kv": SIZE}
    del view
    assert allocator.used() == {}


def test_a_map_inside_a_pool_is_charged_once() -> None:
    allocator = HostAllocator()
    with allocator.pool("kv"):
        kept = allocator.map(SIZE)
    assert allocator.used() == {"kv": len(kept)}


@pytest.mark.parametrize("keep_copy", [True, False])
def test_a_released_map_keeps_its_address(keep_copy: bool) -> None:
    allocator = HostAllocator()
    tensor = allocator.map(SIZE)
    tensor.fill_(7)
    address = tensor.data_ptr()
    allocator.release("kv", keep_copy)
    assert allocator.used() == {"kv": 0}
    allocator.restore("kv")
    assert tensor.data_ptr() == address and allocator.used() == {"kv": SIZE}
    assert tensor.unique().tolist() == ([7] if keep_copy else [0])


def test_released_maps_hold_no_memory() -> None:
    allocator = HostAllocator()
    tensor = allocator.map(64 << 20)
    tensor.fill_(1)
    before = resident_bytes()
    allocator.release("kv", keep_copy=False)
    assert before - resident_bytes() > 60 << 20
    assert len(tensor) == 64 << 20


def resident_bytes() -> int:
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def test_weights_sleep_like_anywhere_else() -> None:
    allocator = HostAllocator()
    with allocator.pool("weights"):
        tensor = torch.ones(1000)
    allocator.release("weights", keep_copy=True)
    assert allocator.used() == {"weights": 0}
    allocator.restore("weights")
    assert tensor.sum() == 1000
