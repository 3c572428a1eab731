from dataclasses import fields, is_dataclass

import numpy as np

from inferplane.execution import wire
from inferplane.interfaces import (
    Choice,
    ExecutorStats,
    KVGroup,
    KVPlan,
    LayerKV,
    Logprobs,
    MediaRows,
    Ragged,
    SamplingBatch,
    StepBatch,
    StepResult,
)
from inferplane.testing.null_engine import null_plan


def same(left: object, right: object) -> bool:
    """Equal in values, dtypes and shapes, however deep."""
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right, equal_nan=True)
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if is_dataclass(left) and type(left) is type(right):
        return all(same(getattr(left, f.name), getattr(right, f.name)) for f in fields(left))
    return left == right


def there_and_back(message: object, side: object) -> object:
    return wire.decoder(side)(bytearray(wire.encode(message)))


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def test_every_array_of_a_batch_crosses_with_dtype_and_shape() -> None:
    sampling = SamplingBatch(
        np.array([0.5], np.float32),
        ints(3),
        np.array([0.9], np.float32),
        np.array([0.1], np.float32),
        np.array([2**64 - 1], np.uint64),
        np.array([7], np.uint64),
        ints(-1),
        penalties=np.ones((1, 3), np.float32),
        seen=Ragged(ints(0, 2), ints(4, 5), ints(0, 1)),
        bias=Ragged(ints(0, 1), ints(4), np.array([-np.inf], np.float32)),
        bitmask=np.array([[1, 2]], np.uint32),
    )
    batch = StepBatch(
        3,
        1,
        ints(1, 2),
        ints(-1, 0),
        ints(0, 1),
        ints(0, 2),
        ints(2),
        ints(5),
        (np.zeros((1, 4), np.int32), np.ones((1, 4), np.int32)),
        (ints(16, 17), ints(32, 33)),
        ints(0),
        sampling,
        host_rows=ints(0),
        scored=np.zeros((0, 2), np.int32),
        num_scored_logprobs=4,
        media=(
            MediaRows(
                "a", {"pixel_values": np.ones((1, 3, 2, 2), np.float32)}, 4, ints(1), ints(3)
            ),
        ),
        copied=np.array([[1, 2]], np.int32),
    )
    arrived = there_and_back(wire.Execute(batch), wire.ToWorker)
    assert isinstance(arrived, wire.Execute) and same(arrived.batch, batch)
    assert arrived.batch.token_ids.flags.writeable  # torch refuses to wrap what is not


def test_results_cross() -> None:
    result = StepResult(
        np.array([[1, -1]], np.int32),
        Logprobs(np.array([[-0.5]], np.float32), np.array([[1]], np.int32), ints(1)),
        logits=np.full((1, 9), np.nan, np.float32),
        failed=ints(0),
    )
    arrived = there_and_back(wire.Result(result), wire.FromWorker)
    assert isinstance(arrived, wire.Result) and same(arrived.result, result)


def test_plans_choices_and_counters_cross() -> None:
    plan = null_plan("null_sync")
    kv = KVPlan(9, 16, (KVGroup((LayerKV("l", 2, 64, 64, "float32"),), 32),))
    reported = wire.Reported(
        (Choice("attention", "x", "flash", "acme", {"other": ("too slow",)}),),
        ExecutorStats(fallbacks={"linear/1": 3}),
    )
    for message, side in (
        (wire.Begin(plan, 1, "file:///x"), wire.ToWorker),
        (wire.Start(kv), wire.ToWorker),
        (wire.Planned(kv), wire.FromWorker),
        (reported, wire.FromWorker),
        (wire.Broke("DeviceError", "gone"), wire.FromWorker),
    ):
        assert there_and_back(message, side) == message
