"""Several cores that share a model: what each holds, and that together they are one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from inferplane.testing.conformance.drawing import Draw
from inferplane.testing.conformance.driver import Work
from inferplane.testing.conformance.state import KitState, Started
from inferplane.testing.fake_sdk import write_sdk
from inferplane.testing.reference import ReferenceModel
from inferplane_neuron.emulated import ExportDriver
from inferplane_neuron.executor import NeuronExecutor
from inferplane_neuron.sharding import Sharding
from inferplane_neuron.traced import SpmdDriver

HEAD = 4
shardings = st.builds(
    lambda cores, kv, group: Sharding(cores, kv * group, kv, HEAD),
    st.integers(2, 9), st.integers(1, 9), st.integers(1, 5),
)  # fmt: skip


@given(sharding=shardings)
@settings(deadline=None)
def test_every_query_head_is_on_one_core_beside_its_own_kv_head(sharding: Sharding) -> None:
    group = sharding.num_heads // sharding.num_kv_heads
    found = []
    for core in range(sharding.cores):
        heads, kv = sharding.heads(core), sharding.kv_heads(core)
        assert len(kv) == sharding.kv_heads_per_core and len(heads) % len(kv) == 0
        share = len(heads) // len(kv)
        for place, head in enumerate(heads):
            assert head < 0 or head // group == kv[place // share]
        found += [head for head in heads if head >= 0]
    assert sorted(found) == list(range(sharding.num_heads))


@given(sharding=shardings, width=st.integers(1, 20))
@settings(deadline=None)
def test_pieces_of_a_product_add_up_to_it(sharding: Sharding, width: int) -> None:
    torch.manual_seed(width)
    x, table = torch.randn(3, 5), torch.randn(width, 5)
    up, down = torch.randn(width, 5), torch.randn(6, width)
    q = torch.randn(sharding.num_heads * HEAD, 5)
    o = torch.randn(6, sharding.num_heads * HEAD)
    cores = range(sharding.cores)

    def cut(name: str, weight: Tensor) -> list[Tensor]:
        parts = [sharding.cut(f"model.layers.0{name}", weight, core) for core in cores]
        assert len({part.shape for part in parts}) == 1
        return parts

    attended = [x @ a.T @ b.T for a, b in zip(
        cut(".self_attn.q_proj.weight", q), cut(".self_attn.o_proj.weight", o), strict=True
    )]  # fmt: skip
    torch.testing.assert_close(torch.stack(attended).sum(0), x @ q.T @ o.T)
    passed = [x @ a.T @ b.T for a, b in zip(
        cut(".mlp.up_proj.weight", up), cut(".mlp.down_proj.weight", down), strict=True
    )]  # fmt: skip
    torch.testing.assert_close(torch.stack(passed).sum(0), x @ up.T @ down.T)
    rows = torch.cat([sharding.cut("lm_head.weight", table, core) for core in cores])
    assert torch.equal(rows[:width], table) and not rows[width:].any()


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KitState]:
    state = KitState(tmp_path_factory.mktemp("cores"), ["inferplane_neuron.emulation"], quick=True)
    yield state
    state.close()


def start(kit: KitState, kind: str, cores: int) -> Started:
    subject = kit.subject("neuron-emulated")
    limits = {"max_num_seqs": 1, "max_model_len": 32, "dtype": "float32"}
    return kit.started(subject, kind, tensor_parallel=cores, **limits)


@pytest.mark.parametrize(("kind", "cores"), [("llama", 2), ("qwen2", 4), ("qwen3", 3)])
def test_several_cores_answer_as_one(kit: KitState, kind: str, cores: int) -> None:
    started = start(kit, kind, cores)
    assert started.plan.topology.devices_per_process == cores
    driver, model = started.new_driver(), ReferenceModel(started.model)
    for prompt in ([7], list(range(3, 27))):
        assert driver.generate(prompt, 6) == model.greedy(prompt, 6)
    assert started.executor.stats().compiles_after_start == 0


def test_a_draw_is_that_of_one_core_and_logits_differ_by_rounding(kit: KitState) -> None:
    rows = []
    for cores in (1, 2):
        driver = start(kit, "llama", cores).new_driver()
        drawn = Draw(temperature=1.2, top_k=30, top_p=0.9, seed=5)
        drawing = driver.begin([9, 8, 7])
        token = driver.prefill(drawing, drawn).token_ids
        driver.end(drawing)
        host = driver.begin([5, 6])
        (asked,) = driver.step([Work(host, 2, Draw(), host=True)])
        assert asked.logits is not None
        rows.append((token, torch.from_numpy(asked.logits)))
        driver.end(host)
    (one, alone), (two, together) = rows
    assert one == two
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_what_cores_tell_each_other_is_in_the_program_and_kv_is_divided(
    kit: KitState, tmp_path: Path
) -> None:
    subject, model = kit.subject("neuron-emulated"), kit.model("llama")
    plan = subject.plan(model, tensor_parallel=2, max_num_seqs=1, max_model_len=32)
    executor = NeuronExecutor(subject.context(plan, tmp_path), ExportDriver(2))
    executor.load(lambda *told: None)
    executor.start(executor.plan_kv(), lambda *told: None)
    programs = [torch.export.load(path) for path in tmp_path.rglob("*.program")]
    assert len(programs) == 2
    for program in programs:
        names = [str(node.target) for node in program.graph.nodes]
        assert sum("all_reduce" in name for name in names) == 2 * plan.model.num_layers + 1
        assert sum("all_gather" in name for name in names) == 1
        shapes = [tuple(x.meta["val"].shape) for x in program.graph.nodes if x.op == "placeholder"]
        kept = (plan.model.num_layers, 2, 32, plan.model.num_kv_heads // 2, plan.model.head_dim)
        assert shapes.count(kept) == 2, "keys and values of half the heads"
    executor.close()


class Doubled(nn.Module):
    def forward(self, *args: Tensor) -> tuple[Tensor, Tensor]:
        return args[0] * 2, args[1] + 1


NXD = """
import inspect, pathlib, torch
WORLD = []
class NxDParallelState:
    def __init__(self, world_size, tensor_model_parallel_size):
        assert world_size == tensor_model_parallel_size
        self.size = world_size
    def __enter__(self): WORLD.append(self.size)
    def __exit__(self, *told): WORLD.pop()
class NxDModel:
    functions = {}
    ready = False
    def __init__(self, function, cores): self.function, self.cores = function, cores
    def save(self, path):
        NxDModel.functions[path] = self
        pathlib.Path(path).write_text("saved")
    @classmethod
    def load(cls, path):
        assert pathlib.Path(path).read_text() == "saved"
        return cls.functions[path]
    def to_neuron(self): self.ready = True
    def __call__(self, *args, forward_mode="default"):
        assert self.ready and forward_mode == "async"
        assert all(isinstance(x, list) and len(x) == self.cores for x in args)
        by_core = [self.function(*core) for core in zip(*args)]
        return [list(output) for output in zip(*by_core)]
class ModelBuilder:
    def __init__(self, function):
        kinds = {p.kind for p in inspect.signature(function).parameters.values()}
        assert kinds == {inspect.Parameter.POSITIONAL_OR_KEYWORD}, "explicit parameters only"
        self.function = function
    def trace(self, args=None, kwargs=None, tag=None, spmd=True):
        self.cores = WORLD[-1]
        assert len(args) == len(inspect.signature(self.function).parameters)
        return self
    def compile(self, priority_model_key=None, compiler_workdir=None, compiler_args=None):
        return NxDModel(self.function, self.cores)
"""


def test_the_sdk_s_builder_is_called_as_it_is_documented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = write_sdk(tmp_path / "site", {"neuronx_distributed": NXD}, {})
    monkeypatch.syspath_prepend(str(site))
    driver, path = SpmdDriver(2), tmp_path / "program"
    example = torch.ones(2), torch.zeros(1)
    driver.compile(Doubled(), example, path)
    outputs = driver.load(path)([example, (torch.full((2,), 3.0), torch.ones(1))])
    assert [[x.tolist() for x in core] for core in outputs] == [[[2, 2], [1]], [[6, 6], [2]]]
    for name in [name for name in sys.modules if name.startswith("neuronx_distributed")]:
        monkeypatch.delitem(sys.modules, name)


def test_one_core_has_no_collectives(tmp_path: Path) -> None:
    assert ExportDriver(1).collectives().total(torch.ones(1)).tolist() == [1.0]
