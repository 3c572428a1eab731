"""Parameters of a model whose layers several devices of one process share."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from inferplane.execution.host_runtime import HostRuntime
from inferplane.testing.reference import ReferenceModel

PROMPT = list(range(5, 22))


class FourDevices(HostRuntime):
    """Notes how each parameter is divided."""

    devices = 4

    def __init__(self) -> None:
        super().__init__()
        self.spreads: list[tuple[tuple[int, ...], int | None]] = []

    def spread(self, weight: Tensor, cut: int | None) -> Tensor:
        assert weight.device.type == "cpu" and not weight.is_meta
        self.spreads.append((tuple(weight.shape), cut))
        return weight.clone()


@pytest.mark.parametrize(("kind", "layers"), [("llama", 2), ("qwen3_moe", 2)])
def test_each_parameter_is_spread_once_and_the_model_answers_as_on_one_device(
    start, plain, kind: str, layers: int
) -> None:
    runtime = FourDevices()
    machine = start(kind, plain(device=runtime))
    told = machine.driver.generate(PROMPT, 8)
    assert told == ReferenceModel(machine.model).greedy(PROMPT, 8)
    cuts = Counter(cut for shape, cut in runtime.spreads if len(shape) == 2)
    assert cuts[1] >= layers  # each layer's output projection
    assert cuts[0] >= layers  # queries, keys and values as one
    assert all(cut is None for shape, cut in runtime.spreads if len(shape) == 1)


def test_what_one_device_holds_is_never_spread(start, plain) -> None:
    class One(FourDevices):
        devices = 1

    runtime = One()
    start("llama", plain(device=runtime))
    assert runtime.spreads == []
    assert torch.equal(HostRuntime().spread(torch.ones(3), 0), torch.ones(3))
