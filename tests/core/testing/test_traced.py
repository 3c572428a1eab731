"""The emulated compiler refuses what a device that compiles ahead would refuse."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402  (after the check that there is one)

from inferplane.errors import DeviceError  # noqa: E402
from inferplane.interfaces import Bucket, StepFunction  # noqa: E402
from inferplane.testing.traced import TracedCompiler, sync_guard  # noqa: E402

BUCKET = Bucket("mixed", 4, 4)


def step(kv: Mapping[str, object], inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return {"out": inputs["x"] * 2 + 1}


def branching(kv: Mapping[str, object], inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return {"out": inputs["x"] * 2 if inputs["x"].sum() > 0 else inputs["x"]}


@pytest.fixture
def compiler() -> TracedCompiler:
    torch._dynamo.reset()
    return TracedCompiler()


def compiled(compiler: TracedCompiler, fn: StepFunction = step, size: int = 4) -> StepFunction:
    return compiler.compile(fn, BUCKET, {}, {"x": torch.ones(size)})


def test_a_program_computes_and_is_made_once(compiler: TracedCompiler) -> None:
    program = compiled(compiler)
    compiler.seal()
    for value in (1.0, -3.0):
        out = program({}, {"x": torch.full((4,), value)})["out"]
        assert torch.equal(out, torch.full((4,), 2 * value + 1))
    assert compiler.stats().compiles == 1 and compiler.stats().compiles_after_start == 0


@pytest.mark.parametrize(
    "inputs",
    [
        {"x": torch.ones(5)},
        {"x": torch.ones(4, dtype=torch.float64)},
        {"x": torch.ones(4), "y": torch.ones(1)},
    ],
    ids=["shape", "dtype", "name"],
)
def test_inputs_of_another_kind_are_refused(
    compiler: TracedCompiler, inputs: dict[str, Tensor]
) -> None:
    with pytest.raises(DeviceError, match="inputs differ"):
        compiled(compiler)({}, inputs)


def test_compiling_after_warm_up_is_counted(compiler: TracedCompiler) -> None:
    compiled(compiler)
    compiler.seal()
    compiled(compiler, size=6)
    assert compiler.stats().compiles_after_start == 1


def test_a_branch_on_a_value_cannot_be_traced(compiler: TracedCompiler) -> None:
    with pytest.raises(torch._dynamo.exc.Unsupported):
        compiled(compiler, branching)


@pytest.mark.parametrize("inference", [True, False])
@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.sum() > 0),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.where(x > 0),
    ],
    ids=["item", "bool", "mask", "nonzero", "where"],
)
def test_hidden_waits_are_noted(wait: object, inference: bool) -> None:
    with sync_guard() as waits, torch.inference_mode(inference):
        wait(torch.ones(3))  # type: ignore[operator]
    assert waits


def test_work_without_waits_is_not_noted() -> None:
    with sync_guard() as waits, torch.inference_mode():
        x = torch.ones(3)
        torch.where(x > 0, x, 0.0).index_select(0, torch.tensor([1])).softmax(0)
    assert waits == []
