"""Models as they are: without paging, every token before the last in sight; and models that see."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from inferplane import LLM, SamplingParams
from inferplane.checkpoint import open_checkpoint
from inferplane.config import current_environment
from inferplane.engine.engine import Engine
from inferplane.engine.messages import Admitted
from inferplane.engine.placement import make_executor
from inferplane.engine.start_up import Started, start_engine
from inferplane.execution.host_runtime import HostRuntime
from inferplane.hookspecs import Register
from inferplane.interfaces import Capabilities, EngineConfig, Executor
from inferplane.layers.build import AttentionSite, Builder
from inferplane.loading import iterate_weights
from inferplane.model_config import ModelConfig, read_model_config
from inferplane.models.choice import choose_model
from inferplane.models.plugin import register_models
from inferplane.ops.bind import Binder
from inferplane.quantization.plugin import register_quantization_formats
from inferplane.registry import Catalogue, Entry
from inferplane.request import Request
from inferplane.testing.tiny_pictures import (
    IMAGE,
    SEEING_KINDS,
    picture_prompt,
    write_seeing_model,
)


def builtins() -> list[tuple[str, Entry]]:
    """The register lines of the core's models and formats."""
    lines: list[tuple[str, Entry]] = []

    def collector(kind: str) -> Register:
        def register(
            name: str, target: str, *, on: tuple[str, ...] = (), priority: int = 0
        ) -> None:
            lines.append((kind, Entry(name, target, "inferplane", on, priority)))

        return register

    register_models(collector("models"))
    register_quantization_formats(collector("quantization_formats"))
    return lines


class WholeSequence:
    """A ForwardContext for one sequence from position 0, by plain masked attention."""

    def __init__(self, sites: tuple[AttentionSite, ...], length: int) -> None:
        self.sites = {site.name: site for site in sites}
        self.rows = torch.arange(length)

    def attend(self, layer: str, q: Tensor, k: Tensor | None, v: Tensor | None) -> Tensor:
        assert k is not None and v is not None
        site = self.sites[layer]
        group = site.num_heads // site.num_kv_heads
        q_NTH = q.transpose(0, 1)
        k_NTH = k.transpose(0, 1).repeat_interleave(group, 0)
        v_NTH = v.transpose(0, 1).repeat_interleave(group, 0)
        scores = q_NTH @ k_NTH.transpose(1, 2) * site.scale
        if site.softcap is not None:
            scores = site.softcap * torch.tanh(scores / site.softcap)
        hidden = self.rows > self.rows[:, None]
        if site.window is not None:
            hidden |= self.rows <= self.rows[:, None] - site.window
        weights = scores.masked_fill(hidden, -torch.inf).float().softmax(-1).to(q.dtype)
        return (weights @ v_NTH).transpose(0, 1)


class Loaded:
    """A model read from files, able to continue a prompt."""

    def __init__(
        self,
        path: Path,
        dtype: str = "float32",
        max_len: int = 512,
        lines: Sequence[tuple[str, Entry]] = (),
        quantization: str = "auto",
    ) -> None:
        """`lines` = what plugins offer besides the core's own."""
        checkpoint = open_checkpoint(path)
        self.config: ModelConfig = read_model_config(checkpoint, dtype, quantization)
        catalogue = Catalogue([*builtins(), *lines])
        engine = EngineConfig(str(path), max_model_len=max_len)
        self.binder = Binder(catalogue, ("acme",), Capabilities(), engine)
        kind: Any
        kind, _ = choose_model(catalogue, self.config.architecture, ("acme",))
        build = Builder(
            self.config, self.binder, getattr(torch, dtype), "cpu", runtime=HostRuntime()
        )
        self.model: Any = kind(self.config, build)
        self.model.load(iterate_weights(checkpoint, torch.float32, build.weights.packed()))

    @torch.inference_mode()
    def logits(self, ids: list[int]) -> Tensor:
        context = WholeSequence(self.model.sites, len(ids))
        positions = torch.arange(len(ids), dtype=torch.int32)
        hidden = self.model.forward(torch.tensor(ids, dtype=torch.int32), positions, context)
        out: Tensor = self.model.logits(hidden)
        return out

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        ids = list(prompt)
        for _ in range(count):
            ids.append(int(self.logits(ids)[-1].argmax()))
        return ids[len(prompt) :]


@pytest.fixture
def load() -> Callable[..., Loaded]:
    return Loaded


class Seeing:
    """A tiny model that sees, and what the transformers library makes of it."""

    count = 8
    """Tokens of each continuation."""
    page = 2 * 2 * 2 * 16 * 16 * 4
    """Bytes of a KV block: layers x (K, V) x heads x size x tokens x float32."""

    def __init__(self, folder: Path, kind: str, text: str = "") -> None:
        self.folder = folder
        self.kind = kind
        self.reference = write_seeing_model(folder, kind, text)

    @torch.inference_mode()
    def continued(self, *seeds: int) -> list[int]:
        """The library's greedy tokens without a cache; never another picture's place."""
        start, items = picture_prompt(self.kind, *seeds)
        ids = list(start)
        axis = SEEING_KINDS[self.kind].axis
        seen = {
            name: torch.from_numpy(
                np.concatenate(
                    [item.arrays[name] for item in items], axis if name.startswith("pixel_") else 0
                )
            )
            for name in items[0].arrays
        }
        for _ in range(self.count):
            made = self.reference(input_ids=torch.tensor([ids]), use_cache=False, **seen)
            logits = made.logits[0, -1]
            logits[IMAGE] = -torch.inf
            ids.append(int(logits.argmax()))
        return ids[len(start) :]

    def request(self, name: str, *seeds: int) -> Request:
        """The same continuation, asked of an engine."""
        ids, items = picture_prompt(self.kind, *seeds)
        sampling = SamplingParams(
            temperature=0.0,
            max_tokens=self.count,
            seed=0,
            ignore_eos=True,
            logit_bias={IMAGE: -1e9},
        )
        return Request(request_id=name, prompt_ids=tuple(ids), items=items, sampling=sampling)

    def serve(self, **settings: Any) -> LLM:
        """The model, ready."""
        given = {"max_model_len": 160, "max_num_seqs": 4, "max_batched_tokens": 256, **settings}
        return LLM(str(self.folder), device="cpu", dtype="float32", **given)

    def begun(self, **changes: Any) -> tuple[Started, Executor]:
        """An engine whose parts a test may touch; `changes` are of its LaunchPlan."""
        with self.serve() as llm:
            plan = dataclasses.replace(llm.plan, **changes)
        executor = make_executor(plan, current_environment())
        return start_engine(executor, plan, lambda *_: None, b"root"), executor

    @classmethod
    def run(cls, llm: LLM, *requests: Request) -> dict[str, tuple[list[int], int]]:
        """(tokens, prompt tokens found in the cache) of each request, all in one go."""
        cls.begin(llm._engine, *requests)
        return cls.finish(llm._engine)

    @staticmethod
    def begin(engine: Engine, *requests: Request) -> None:
        for one in requests:
            assert isinstance(engine.add(one), Admitted)

    @staticmethod
    def finish(engine: Engine) -> dict[str, tuple[list[int], int]]:
        """Everything that was begun, to its end."""
        made: dict[str, tuple[list[int], int]] = {}
        while engine.busy or engine.outputs:
            for output in engine.outputs:
                assert not output.error, output.error
                tokens, cached = made.get(output.request_id, ([], 0))
                tokens += output.token_ids
                made[output.request_id] = (tokens, max(cached, output.cached_tokens))
            engine.outputs.clear()
            engine.step()
        return made


@pytest.fixture(scope="session")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Seeing]:
    """`seeing(kind, text)`: each made once."""
    made: dict[tuple[str, str], Seeing] = {}

    def make(kind: str, text: str = "") -> Seeing:
        if (kind, text) not in made:
            made[kind, text] = Seeing(tmp_path_factory.mktemp(kind), kind, text)
        return made[kind, text]

    return make
