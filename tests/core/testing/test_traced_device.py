"""The emulated device counts graphs, and refuses what a shape-specialising one would refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402  (after the check that there is one)

from inferplane.errors import DeviceError  # noqa: E402
from inferplane.execution.own_code import own_code  # noqa: E402
from inferplane.ops.reference.attention import (  # noqa: E402
    AttentionRule,
    PagedContext,
    write_and_attend,
)
from inferplane.testing.traced_device import TracedDevice  # noqa: E402

BLOCKS, SIZE, HEADS, KV_HEADS, DIM = 8, 16, 4, 2, 8
RULE = AttentionRule(0.25)


@pytest.fixture(params=[True, False], ids=["aliased", "in_place"])
def device(request: pytest.FixtureRequest) -> Iterator[TracedDevice]:
    torch._dynamo.reset()
    with torch.inference_mode():
        yield TracedDevice(aliased=request.param)
    torch._dynamo.reset()


def step(
    keys: Tensor, values: Tensor, q: Tensor, k: Tensor, v: Tensor, slots: Tensor, tables: Tensor
) -> Tensor:
    owners = torch.zeros(q.shape[0], dtype=torch.int32)
    context = PagedContext(tables, owners, slots - SIZE, SIZE)
    return write_and_attend(q, k, v, (keys, values), slots, context, RULE)


def arguments(tokens: int, seed: int = 0) -> tuple[Tensor, ...]:
    torch.manual_seed(seed)
    caches = [torch.zeros(BLOCKS * SIZE, KV_HEADS, DIM) for _ in range(2)]
    q = torch.randn(tokens, HEADS, DIM)
    k, v = (torch.randn(tokens, KV_HEADS, DIM) for _ in range(2))
    slots = torch.arange(tokens, dtype=torch.int32) + SIZE
    return *caches, q, k, v, slots, torch.tensor([[1, 2]], dtype=torch.int32)


def agrees(program: Callable[..., Tensor], tokens: int, seed: int) -> bool:
    ours, theirs = arguments(tokens, seed), arguments(tokens, seed)
    same = torch.allclose(program(*ours), step(*theirs), atol=1e-6)
    return bool(same and torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1]))


def test_each_shape_is_one_graph_and_none_is_made_after_the_seal(device: TracedDevice) -> None:
    program = device.compile(step)
    for bucket in (1, 2, 4, 8):
        assert agrees(program, bucket, seed=bucket)
    device.seal()
    assert all(agrees(program, tokens, seed) for seed, tokens in enumerate((8, 2, 4, 1, 8)))
    assert len(device.graphs) == len(set(device.graphs)) == 4
    assert device.after_seal == 0


def test_a_graph_is_known_by_the_shapes_and_dtypes_of_its_inputs(device: TracedDevice) -> None:
    program = device.compile(lambda x: x * 2)
    program(torch.ones(3))
    program(torch.ones(3, dtype=torch.bfloat16))
    assert device.graphs == [(((3,), "torch.float32"),), (((3,), "torch.bfloat16"),)]


def test_what_is_compiled_after_the_seal_is_counted(device: TracedDevice) -> None:
    program = device.compile(lambda x: x + 1)
    program(torch.ones(2))
    device.seal()
    program(torch.ones(5))
    assert (len(device.graphs), device.after_seal) == (2, 1)


def test_a_number_in_the_program_costs_a_graph_of_the_same_shapes(device: TracedDevice) -> None:
    program = device.compile(lambda x, most: x.clamp(max=most))
    program(torch.ones(2), 3)
    program(torch.ones(2), 4)
    assert len(device.graphs) == 2 and len(set(device.graphs)) == 1


def test_a_dynamic_dimension_is_refused(device: TracedDevice) -> None:
    program = torch.compile(
        own_code(lambda x: x * x.shape[0]), backend=device, fullgraph=True, dynamic=True
    )
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match="dynamic dimension") as told:
        program(torch.ones(6))
    assert isinstance(told.value.inner_exception, DeviceError) and device.graphs == []


def test_a_size_that_depends_on_values_is_refused(device: TracedDevice) -> None:
    capture = torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True)  # else torch does
    with (
        capture,
        pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match="dynamic dimension"),
    ):
        device.compile(lambda x: x[x > 0] * 2)(torch.ones(3))


def test_a_branch_on_a_value_is_refused(device: TracedDevice) -> None:
    with pytest.raises(torch._dynamo.exc.Unsupported):
        device.compile(lambda x: x * 2 if x.sum() > 0 else x)(torch.ones(3))


def test_programs_of_many_buckets_do_not_exhaust_the_limit_of_recompilations(
    device: TracedDevice,
) -> None:
    def fn(x: Tensor) -> Tensor:
        return x + 1

    limit = torch._dynamo.config.recompile_limit
    for size in range(1, limit + 3):
        assert torch.equal(device.compile(fn)(torch.ones(size)), torch.full((size,), 2.0))
    assert len(device.graphs) == limit + 2


def test_writes_show_at_the_address_that_was_given(device: TracedDevice) -> None:
    def write(cache: Tensor, at: Tensor, new: Tensor) -> Tensor:
        cache.index_copy_(0, at, new)
        return cache.sum()

    cache = torch.zeros(4, 2)
    view, address = cache[1:3], cache.data_ptr()
    total = device.compile(write)(cache, torch.tensor([2]), torch.ones(1, 2))
    assert total == 2 and cache.data_ptr() == address
    assert torch.equal(view, torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
