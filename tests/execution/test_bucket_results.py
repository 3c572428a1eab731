"""Where the device compiles every shape apart, what comes down has the sizes of the bucket."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from inferplane.execution.host_runtime import Done, HostRuntime
from inferplane.interfaces import Capabilities, SchedulerLimits
from inferplane.shapes import TokenGrid
from inferplane.testing.conformance.drawing import Draw
from inferplane.testing.conformance.driver import Row, Work
from inferplane.testing.tiny import write_tiny_model

PROMPTS = [list(range(5 + n, 5 + n + 3 + 4 * n)) for n in range(3)]
STATIC = Capabilities(
    static_shapes=True,
    limits=SchedulerLimits(max_prefill_seqs=None, mix_prefill_decode=True, chunked_prefill=True),
)


@dataclass
class NotingRuntime(HostRuntime):
    """Notes every size it is asked to bring down."""

    sizes: dict[str, set[tuple[int, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def to_host(self, tensors: Mapping[str, Tensor]) -> Done:
        for name, tensor in tensors.items():
            self.sizes.setdefault(name, set()).add(tuple(tensor.shape))
        return super().to_host(tensors)


def one_bucket() -> TokenGrid:
    return TokenGrid(96, 8, tokens=(96,), seqs=(8,))


def rows_of(machine, count: int) -> list[Row]:
    """The first `count` prompts in one step, each other one drawn on the host."""
    driver = machine.driver
    lives = [driver.begin(prompt) for prompt in PROMPTS[:count]]
    works = [Work(live, len(live.tokens), Draw(), host=n % 2 == 0) for n, live in enumerate(lives)]
    rows: list[Row] = driver.step(works)
    driver.end(*lives)
    return rows


def test_steps_of_any_size_bring_one_size_down_and_the_same_rows(start, plain) -> None:
    runtime = NotingRuntime()
    machine = start("llama", plain(one_bucket(), device=runtime), caps=STATIC)
    unpadded = start("llama", plain())
    for count in (1, 2, 3):
        for ours, want in zip(rows_of(machine, count), rows_of(unpadded, count), strict=True):
            assert ours.token_ids == want.token_ids
            assert (ours.logits is None) == (want.logits is None)
            if want.logits is not None:
                np.testing.assert_allclose(ours.logits, want.logits, atol=1e-5)
    assert {name: len(sizes) for name, sizes in runtime.sizes.items()} == {"ids": 1, "logits": 1}


@pytest.mark.parametrize("key", ["mean_tokens", "cls_token", "lasttoken"])
def test_pooled_vectors_come_in_one_size_too(key, start, plain, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    (model / "1_Pooling").mkdir()
    (model / "1_Pooling/config.json").write_text(json.dumps({f"pooling_mode_{key}": True}))
    runtime = NotingRuntime()
    machine = start(model, plain(one_bucket(), device=runtime), caps=STATIC)
    unpadded = start(model, plain())
    for count in (1, 3):
        np.testing.assert_allclose(
            vectors(machine, count), vectors(unpadded, count), atol=1e-5, rtol=1e-5
        )
    assert len(runtime.sizes["embeddings"]) == 1


def vectors(machine, count: int) -> np.ndarray:
    lives = [machine.driver.begin(prompt) for prompt in PROMPTS[:count]]
    works = [Work(live, len(live.tokens)) for live in lives]
    asked = np.arange(count, dtype=np.int32)
    batch = replace(machine.driver.build(works, [], []), embedded=asked)
    found = machine.executor.execute(batch).result().embeddings
    assert found is not None
    return found
