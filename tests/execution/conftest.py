"""Executors over tiny models on a platform that brings nothing of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from inferplane.checkpoint import open_checkpoint
from inferplane.execution.artifact_cache import DiskCache
from inferplane.execution.torch_executor import TorchExecutor
from inferplane.interfaces import (
    Capabilities,
    DeviceRuntime,
    EngineConfig,
    GraphCompiler,
    ModelShape,
    Platform,
    Probe,
    SamplerCaps,
    SchedulerLimits,
    ShapePolicy,
    Topology,
    WorkerContext,
)
from inferplane.launch import LaunchPlan, SchedulerConfig
from inferplane.model_config import read_model_config
from inferplane.models.pictures import image_token_id, takes_pictures
from inferplane.plugins import Plugins
from inferplane.testing.conformance.driver import Driver
from inferplane.testing.tiny import write_tiny_model

CAPS = Capabilities(
    compute_dtypes=("float32", "bfloat16"),
    block_multiple=16,
    limits=SchedulerLimits(
        max_prefill_seqs=None,
        mix_prefill_decode=True,
        chunked_prefill=True,
        max_drafts=4,
        async_steps=1,
        prefix_cache=True,
    ),
    sampler=SamplerCaps(max_logprobs=32),
    sleep=True,
)


@dataclass
class Plain(Platform):
    """The core's own parts, with a shape policy and a compiler if a test wants them."""

    policy: ShapePolicy | None = None
    compiler: GraphCompiler | None = None
    device: DeviceRuntime | None = None

    def probe(self, env: object) -> Probe:
        return Probe(True, "always there")

    def capabilities(self, probe: Probe, model: ModelShape | None) -> Capabilities:
        return CAPS

    def shapes(self, config: EngineConfig, caps: Capabilities) -> ShapePolicy:
        return self.policy or ShapePolicy()

    def create_compiler(self, context: object, device: object) -> GraphCompiler | None:
        return self.compiler

    def create_device(self, context: object) -> DeviceRuntime | None:
        return self.device


@dataclass(frozen=True)
class Machine:
    """A started executor and the hand that drives it."""

    executor: TorchExecutor
    driver: Driver
    model: Path


Start = Callable[..., Machine]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of the tiny model of a kind, written once."""
    written: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in written:
            written[kind] = write_tiny_model(tmp_path_factory.mktemp(kind), kind)
        return written[kind]

    return folder


@pytest.fixture
def start(tiny: Callable[[str], Path], tmp_path: Path) -> Iterator[Start]:
    """`start(kind or folder, platform, caps, **settings)`: an executor ready for steps."""
    started: list[TorchExecutor] = []

    def build(
        kind: str | Path = "llama",
        platform: Plain | None = None,
        caps: Capabilities = CAPS,
        **settings: object,
    ) -> Machine:
        model = kind if isinstance(kind, Path) else tiny(kind)
        executor, plan = make_executor(model, platform or Plain(), caps, tmp_path, settings)
        started.append(executor)
        executor.load(lambda *progress: None)
        kv = executor.plan_kv()
        executor.start(kv, lambda *progress: None)
        config = plan.config
        driver = Driver(
            executor,
            kv,
            caps,
            (platform or Plain()).shapes(config, caps),
            config.max_num_seqs,
            config.max_batched_tokens,
            plan.model.vocab_size,
        )
        return Machine(executor, driver, model)

    yield build
    for executor in started:
        executor.close()


def make_executor(
    model: Path, platform: Plain, caps: Capabilities, cache: Path, settings: dict[str, object]
) -> tuple[TorchExecutor, LaunchPlan]:
    base = EngineConfig(
        str(model), "plain", "float32", max_model_len=256, max_num_seqs=8, max_batched_tokens=96
    )
    config = replace(base, **settings)  # type: ignore[arg-type]
    numbers = read_model_config(open_checkpoint(model))
    plan = LaunchPlan(
        device="plain",
        plugin="plain",
        plugin_version="",
        probe=platform.probe({}),
        config=config,
        scheduler=SchedulerConfig(),
        caps=caps,
        model=numbers.shape(),
        topology=Topology(placement="inline"),
        lines=tuple(Plugins().catalogue.lines()),
        image_token=image_token_id(numbers) if takes_pictures(numbers) else None,
    )
    shapes = platform.shapes(config, caps)
    context = WorkerContext(config, caps, plan.model, shapes, DiskCache(cache))
    return TorchExecutor(context, platform, plan), plan


@pytest.fixture(scope="session")
def plain() -> type[Plain]:
    """The platform class, for tests that give it parts."""
    return Plain
