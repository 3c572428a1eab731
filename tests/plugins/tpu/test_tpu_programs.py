"""Programs of fixed shapes over pages: what may run, what is written, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inferplane.errors import ConfigError, DeviceError  # noqa: E402  (after the check for torch)
from inferplane.interfaces import Bucket, KVGroup, KVPlan, LayerKV  # noqa: E402
from inferplane_tpu.allocator import XlaAllocator  # noqa: E402
from inferplane_tpu.compiler import BucketCompiler  # noqa: E402
from inferplane_tpu.emulated import EmulatedDriver  # noqa: E402
from inferplane_tpu.pages import LANES, LAYOUT, PageStore, joined  # noqa: E402
from inferplane_tpu.runtime import TpuRuntime  # noqa: E402

pytestmark = pytest.mark.usefixtures("forget_traces")
BUCKETS = [Bucket("mixed", tokens, 8) for tokens in (32, 16)]
LAYER = LayerKV("a", 2, 48, 48, "float32", LAYOUT)


@pytest.fixture
def store() -> PageStore:
    runtime = TpuRuntime(EmulatedDriver())
    made = PageStore(runtime, XlaAllocator(runtime.torch_device))
    made.allocate(KVPlan(20, 16, (KVGroup((LAYER,)),)))
    return made


def inputs(bucket: Bucket) -> dict[str, torch.Tensor]:
    slots = torch.arange(bucket.num_tokens, dtype=torch.int32) + 16
    return {"slots": slots, "x": torch.randn(bucket.num_tokens, 2, 48)}


def keep(kv, given):
    kv["a"].write(given["slots"], given["x"], -given["x"])
    return {"sum": given["x"].sum(-1)}


def test_a_program_a_bucket_writes_into_the_pages_and_none_is_made_later(store) -> None:
    driver = EmulatedDriver()
    compiler, kv = BucketCompiler(driver), {"a": store.layer("a")}
    with torch.no_grad():
        programs = {b: compiler.compile(keep, b, kv, inputs(b)) for b in BUCKETS}
        compiler.seal()
        for bucket in (*BUCKETS, *reversed(BUCKETS)):
            given = inputs(bucket)
            programs[bucket](kv, given)
            k, v = store.read_tokens("a", given["slots"].numpy())
            np.testing.assert_array_equal(k, given["x"].numpy())
            np.testing.assert_array_equal(v, -given["x"].numpy())
    assert compiler.stats().compiles == 2


def test_a_step_of_another_bucket_is_refused(store) -> None:
    compiler, kv = BucketCompiler(EmulatedDriver()), {"a": store.layer("a")}
    with torch.no_grad():
        program = compiler.compile(keep, BUCKETS[0], kv, inputs(BUCKETS[0]))
        with pytest.raises(DeviceError, match=r"mixed-t32-s8: inputs differ"):
            program(kv, inputs(BUCKETS[1]))


def test_a_branch_on_a_value_fails_while_compiling(store) -> None:
    def branching(kv, given):
        return {"x": given["x"] if bool(given["x"].sum() > 0) else -given["x"]}

    with pytest.raises(Exception, match="[Dd]ata-dependent"), torch.no_grad():
        BucketCompiler(EmulatedDriver()).compile(branching, BUCKETS[0], {}, inputs(BUCKETS[0]))


def test_keys_and_values_alternate_and_heads_fill_whole_lanes() -> None:
    k, v = torch.randn(3, 2, 48), torch.randn(3, 2, 48)
    rows = joined(k, v, LANES)
    assert rows.shape == (3, 4, LANES)
    assert torch.equal(rows[:, 0::2, :48], k) and torch.equal(rows[:, 1::2, :48], v)
    assert not rows[..., 48:].any()


def test_many_blocks_are_copied_as_if_all_were_read_first(store) -> None:
    slots = np.arange(20 * 16, dtype=np.int32)
    content = np.repeat(np.arange(20, dtype=np.float32), 16)[:, None, None]
    content = np.broadcast_to(content, (320, 2, 48)).copy()
    store.write_tokens("a", slots, content, content)
    chain = np.array([(block, block + 1) for block in range(1, 19)], np.int32)
    store.copy(chain)
    k, _ = store.read_tokens("a", np.arange(0, 320, 16, dtype=np.int32))
    assert k[:, 0, 0].tolist() == [0, 1, *range(1, 19)]


def test_groups_of_other_shapes_cannot_share_blocks(store) -> None:
    wide = LayerKV("w", 4, 48, 48, "float32", LAYOUT, window=32)
    with pytest.raises(ConfigError, match="only between layers of one shape"):
        store.allocate(KVPlan(4, 16, (KVGroup((LAYER,)), KVGroup((wide,), 32))))
