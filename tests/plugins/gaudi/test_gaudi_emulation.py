"""A tiny model on the emulated device: real parts, a shim on disk, one graph a bucket."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from inferplane.interfaces import EngineConfig
from inferplane.testing.conformance.attention import AttentionConformance
from inferplane.testing.conformance.drawing import Draw
from inferplane.testing.conformance.driver import Work
from inferplane.testing.conformance.kv import KVStoreConformance
from inferplane.testing.conformance.quantization import QuantKernelConformance
from inferplane.testing.conformance.state import KitState, Started
from inferplane.testing.reference import ReferenceModel
from inferplane_gaudi import _sdk
from inferplane_gaudi.emulation import EmulatedGaudi
from inferplane_gaudi.environment import worker_environment

PLUGINS = ["inferplane_gaudi.emulation"]


@pytest.fixture(scope="module")
def inferplane_device() -> str:
    return "gaudi-emulated"


@pytest.fixture(scope="module")
def inferplane_kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KitState]:
    state = KitState(tmp_path_factory.mktemp("emulated"), PLUGINS, quick=True)
    yield state
    state.close()


class TestAttention(AttentionConformance): ...


class TestKVStore(KVStoreConformance): ...


class TestQuantKernels(QuantKernelConformance): ...


@pytest.fixture(scope="module")
def started(inferplane_kit: KitState) -> Started:
    subject = inferplane_kit.subject("gaudi-emulated")
    return inferplane_kit.started(subject, "llama", max_num_seqs=2)


def test_each_bucket_is_one_graph_and_serving_compiles_none(started: Started) -> None:
    device = import_module("habana_frameworks.torch.core").DEVICE  # the shim's compiler
    made = list(device.graphs)
    buckets = started.policy.buckets()
    draws = len({bucket.num_seqs for bucket in buckets})
    assert started.executor.stats().compiles == len(buckets) + draws
    assert (len(buckets), draws) == (7, 2)
    assert len(made) == len(buckets) + draws + 1, "and one of the step that measures memory"
    device.seal()
    driver = started.new_driver()
    model = ReferenceModel(started.model)
    prompts = [list(range(5, 5 + count)) for count in (3, 90)]
    alone = [driver.generate(prompt, 5) for prompt in prompts]
    assert alone == [model.greedy(prompt, 5) for prompt in prompts]
    long = list(range(3, 143))
    chunked, whole = driver.begin(long), model.greedy(long, 3)
    drawn = [driver.prefill(chunked, Draw(), chunk=50).token_ids[0]]
    for _ in range(2):  # over the end of a block of 128
        chunked.tokens.append(drawn[-1])
        drawn.append(driver.step([Work(chunked, 1, Draw())])[0].token_ids[0])
    assert drawn == whole
    assert device.after_seal == 0 and device.graphs == made
    assert started.executor.stats().compiles_after_start == 0


def test_prompts_in_company_answer_as_alone_whole_or_in_parts(inferplane_kit: KitState) -> None:
    subject = inferplane_kit.subject("gaudi-emulated")
    limits = {"max_num_seqs": 2, "max_model_len": 128, "max_batched_tokens": 256}
    started = inferplane_kit.started(subject, "llama", **limits)
    assert "prefill-t256-s2-q128-c128-rect" in map(str, started.policy.buckets())
    driver, model = started.new_driver(), ReferenceModel(started.model)
    first, parts, late = (list(range(5, 5 + count)) for count in (60, 110, 90))
    a, b = driver.begin(first), driver.begin(parts)
    works = [Work(a, 60, Draw()), Work(b, 40)]
    assert driver.admits(works)
    drawn = [driver.step(works)[0].token_ids[0]]
    driver.end(a)
    c = driver.begin(late)
    drawn += [row.token_ids[0] for row in driver.step([Work(c, 90, Draw()), Work(b, 70, Draw())])]
    driver.end(b, c)
    assert drawn == [model.greedy(prompt, 1)[0] for prompt in (first, late, parts)]
    assert started.executor.stats().compiles_after_start == 0


def test_attention_comes_from_this_plugin(started: Started) -> None:
    chosen = {(c.name, c.owner) for c in started.executor.choices() if c.kind == "attention"}
    assert chosen == {("gaudi_flat", "gaudi")}
    assert "attention" not in started.executor.stats().fallbacks


def test_the_environment_is_data_and_says_where_programs_are_kept() -> None:
    before = dict(os.environ)
    config = EngineConfig("m", tensor_parallel=2, options={"recipe_cache": "/programs"})
    env = EmulatedGaudi().worker_env(config, 1)
    assert env == worker_environment(1, 2, "/programs")
    assert env["PT_HPU_LAZY_MODE"] == "0"
    assert env["PT_HPU_RECIPE_CACHE_CONFIG"] == "/programs,false,16384"
    assert (env["RANK"], env["WORLD_SIZE"], env["HLS_MODULE_ID"]) == ("1", "2", "1")
    alone = EmulatedGaudi().worker_env(replace(config, tensor_parallel=1, options={}), 0)
    assert set(alone) == {"PT_HPU_LAZY_MODE", "PT_ENABLE_INT64_SUPPORT"}
    assert dict(os.environ) == before


def test_an_sdk_that_cannot_be_opened_is_told_with_its_own_words(tmp_path: Path) -> None:
    package = tmp_path / "habana_frameworks"
    package.mkdir()
    (package / "__init__.py").write_text("raise KeyError('libSynapse.so')")
    code = (
        "from inferplane.errors import DeviceError\nfrom inferplane_gaudi import _sdk\n"
        "try: _sdk.open_stack()\nexcept DeviceError as error: print(error)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    out = subprocess.run([sys.executable, "-c", code], env=env, text=True, capture_output=True)
    assert "habana_frameworks cannot be opened: KeyError: 'libSynapse.so'" in out.stdout
    assert _sdk.problem() in out.stdout


RANK = """
import sys, torch
from inferplane.interfaces import EngineConfig, WorkerContext
from inferplane_gaudi.emulation import EmulatedGaudi
rank, folder = int(sys.argv[1]), sys.argv[2]
platform = EmulatedGaudi()
config = EngineConfig("m", tensor_parallel=2)
context = WorkerContext(config, None, None, None, None, rank=rank, rendezvous=f"file://{folder}/r")
group = platform.create_communicator(context, platform.create_device(context))
total = group.all_reduce(torch.full((2, 2), float(rank + 1)))
side = group.all_gather(torch.full((2, 1), float(rank)), dim=1)
assert total.tolist() == [[3.0, 3.0]] * 2 and side.tolist() == [[0.0, 1.0]] * 2
group.close(); group.close()
"""


def test_ranks_add_and_gather_through_the_communicator(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RANK]
    ranks = [subprocess.Popen([*command, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [rank.wait() for rank in ranks] == [0, 0]
