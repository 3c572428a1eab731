"""Pages go and come back; the addresses they lie behind stay."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from inferplane.errors import ConfigError, DeviceError, UnsupportedError
from inferplane.interfaces import EngineConfig, ModelShape, Probe
from inferplane.probing import Requirement
from inferplane_cuda import _sdk
from inferplane_cuda.memory.pages import Pages
from inferplane_cuda.platform import Cuda
from inferplane_triton.gpu.allocator import GpuAllocator

PAGE = 64


@dataclass
class HostMemory:
    """VirtualMemory over host bytes: `total` of them, and addresses that are never used twice."""

    total: int = 8 * PAGE
    granularity: int = PAGE
    reserved: dict[int, int] = field(default_factory=dict)
    mapped: dict[int, Tensor] = field(default_factory=dict)
    next: int = 0x1000

    def reserve(self, size: int) -> int:
        assert size % PAGE == 0
        address, self.next = self.next, self.next + size
        self.reserved[address] = size
        return address

    def map(self, address: int, size: int) -> object:
        assert self.reserved[address] == size and address not in self.mapped
        if self.used + size > self.total:
            raise DeviceError("no pages left")
        self.mapped[address] = torch.randint(256, (size,), dtype=torch.uint8)
        return address

    def unmap(self, address: int, size: int, pages: object) -> None:
        assert pages == address and len(self.mapped.pop(address)) == size

    def forget(self, address: int, size: int) -> None:
        assert address not in self.mapped and self.reserved.pop(address) == size

    def read(self, address: int, into: Tensor) -> None:
        into.copy_(self.mapped[address])

    def write(self, address: int, content: Tensor) -> None:
        self.mapped[address].copy_(content)

    @property
    def used(self) -> int:
        return sum(map(len, self.mapped.values()))


def taken(pages: Pages, memory: HostMemory, fill: int, size: int = PAGE) -> int:
    address = pages.take(size)
    memory.mapped[address].fill_(fill)
    return address


def test_a_copy_comes_back_to_the_same_address() -> None:
    memory = HostMemory()
    pages = Pages(memory)
    with pages.charged_to("weights"):
        first, second = taken(pages, memory, 1), taken(pages, memory, 2, PAGE + 1)
    other = taken(pages, memory, 3)
    assert pages.held("weights") == 3 * PAGE and memory.used == 4 * PAGE
    pages.release("weights", keep_copy=True)
    assert pages.held("weights") == 0 and set(memory.mapped) == {other}
    pages.restore("weights")
    assert pages.held("weights") == 3 * PAGE
    assert memory.mapped[first].eq(1).all() and memory.mapped[second].eq(2).all()
    assert memory.mapped[other].eq(3).all()


def test_without_a_copy_only_the_addresses_come_back() -> None:
    memory = HostMemory()
    pages = Pages(memory)
    with pages.charged_to("kv"):
        address = taken(pages, memory, 1)
    pages.release("kv", keep_copy=False)
    pages.release("kv", keep_copy=True)
    assert memory.used == 0
    pages.restore("kv")
    pages.restore("kv")
    assert set(memory.mapped) == {address}


def test_a_restore_that_finds_no_pages_can_be_tried_again() -> None:
    memory = HostMemory()
    pages = Pages(memory)
    with pages.charged_to("weights"):
        addresses = [taken(pages, memory, fill, 2 * PAGE) for fill in (1, 2)]
    pages.release("weights", keep_copy=True)
    somebody = [taken(pages, memory, 9, 6 * PAGE)]
    with pytest.raises(DeviceError):
        pages.restore("weights")
    pages.give(somebody.pop())
    pages.restore("weights")
    assert [int(memory.mapped[a][0]) for a in addresses] == [1, 2]


def test_what_is_given_back_leaves_nothing_behind() -> None:
    memory = HostMemory()
    pages = Pages(memory)
    with pages.charged_to("weights"):
        awake, asleep = taken(pages, memory, 1), taken(pages, memory, 2)
    pages.give(awake)
    pages.release("weights", keep_copy=True)
    pages.give(asleep)
    assert not memory.reserved and not memory.mapped
    with pytest.raises(DeviceError):
        pages.take(9 * PAGE)
    assert not memory.reserved


def test_memory_is_one_of_two_kinds() -> None:
    caps = Cuda().capabilities(Probe(True, "", arch="sm_90"), None)
    assert "memory" in caps.options
    shape = ModelShape("LlamaForCausalLM", 1, 64, 2, 2, 32, 100, 128, "bfloat16")
    with pytest.raises(ConfigError, match=r"memory='disk'.*cached or pages"):
        Cuda().resolve(EngineConfig(model="m", options={"memory": "disk"}), caps, shape)
    assert Cuda().resolve(EngineConfig(model="m", options={"memory": "cached"}), caps, shape) == ()


def test_pages_without_the_drivers_bindings_are_refused_before_a_device_is_touched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent = Requirement("no-such-bindings", "12.9", "cuda", "PyPI: pip install cuda-bindings")
    monkeypatch.setattr(_sdk, "BINDINGS", absent)
    caps = Cuda().capabilities(Probe(True, "", arch="sm_90"), None)
    shape = ModelShape("LlamaForCausalLM", 1, 64, 2, 2, 32, 100, 128, "bfloat16")
    with pytest.raises(ConfigError, match=r"memory='pages'.*pip install cuda-bindings"):
        Cuda().resolve(EngineConfig(model="m", options={"memory": "pages"}), caps, shape)


def test_the_cache_refuses_sleep_and_names_the_other_kind() -> None:
    @dataclass
    class Device:
        torch_device: str = "cpu"

    allocator = GpuAllocator(Device(), ": start with --option memory=pages")  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="memory=pages"):
        allocator.release("weights", keep_copy=True)
