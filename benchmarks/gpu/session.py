"""One engine on one model, in this process, from configuration to the last token."""

from __future__ import annotations

import gc
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inferplane.engine.engine import Engine
from inferplane.engine.placement import make_executor, make_shapes
from inferplane.interfaces import EngineConfig, Executor
from inferplane.launch import LaunchPlan, LaunchSettings, SchedulerConfig
from inferplane.planning import make_plan
from inferplane.request import Request
from inferplane.sampling_params import SamplingParams

__all__ = ["Session", "model_folder"]

_ARRIVING_TOKENS = 65536


def model_folder(root: Path, name: str, config: dict[str, object]) -> Path:
    """A model that is a config.json alone: its weights are made up."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@dataclass
class Session:
    """Starts on construction; `phases` holds the seconds of each part of the start."""

    config: EngineConfig
    plugins: tuple[str, ...] | None
    phases: dict[str, float] = field(default_factory=dict)
    load_format: str = "dummy"

    def __post_init__(self) -> None:
        self.began = time.perf_counter()
        settings = LaunchSettings(
            self.config, SchedulerConfig(), plugins=self.plugins, load_format=self.load_format
        )
        with self.phase("plan"):
            self.plan: LaunchPlan = make_plan(settings, dict(os.environ))
            shapes = make_shapes(self.plan)
        with self.phase("import torch, create"):
            self.executor: Executor = make_executor(self.plan, dict(os.environ))
        with self.phase("load"):
            self.executor.load(_quiet)
        self.weight_bytes = self._device_bytes()
        with self.phase("trial step, memory"):
            kv = self.executor.plan_kv()
        self.kernels_s: float | None = None
        with self.phase("KV, graphs"):
            self.executor.start(kv, self._starting)
        self.num_blocks, self.block_size = kv.num_blocks, kv.block_size
        self.engine = Engine(self.executor, kv, self.plan, shapes, time.monotonic, b"bench")
        self.requests = 0
        self.first_s = 0.0
        """Until the first token of the last `generate`."""

    def _starting(self, phase: str, done: int, total: int, detail: str) -> None:
        """Times what comes between "kernels" and the next word: their rehearsal."""
        if detail == "kernels":
            self.kernels_s = time.perf_counter()
        elif self.kernels_s is not None:
            self.phases["of it kernels side by side"] = time.perf_counter() - self.kernels_s
            self.kernels_s = None

    def _device_bytes(self) -> int:
        """What the device holds now; 0 for a processor."""
        if self.plan.device != "cuda":
            return 0
        import torch  # the engine's own code does without it

        return torch.cuda.memory_allocated()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a part of the start."""
        began = time.perf_counter()
        yield
        self.phases[name] = time.perf_counter() - began

    def generate(
        self,
        prompts: list[list[int]],
        outputs: list[int],
        each_step: Callable[[], None] = lambda: None,
    ) -> tuple[float, list[list[int]]]:
        """(seconds, tokens of each prompt) of greedy requests that all come at once.

        Raises SystemExit when a request is refused, fails or ends early.
        """
        produced: dict[str, list[int]] = {}
        self.first_s = 0.0
        began = time.perf_counter()
        arriving = deque(zip(prompts, outputs, strict=True))
        engine = self.engine
        while arriving or engine.busy:
            self.take_in(arriving, produced)
            engine.step()
            for output in engine.outputs:
                produced[output.request_id] += output.token_ids
                if output.error:
                    raise SystemExit(f"request {output.request_id} failed: {output.error}")
            if engine.outputs and not self.first_s:
                self.first_s = time.perf_counter() - began
            engine.outputs.clear()
            each_step()
        seconds = time.perf_counter() - began
        lengths = [len(tokens) for tokens in produced.values()]
        if lengths != outputs:
            raise SystemExit(f"asked for {outputs} tokens, got {lengths}")
        return seconds, list(produced.values())

    def take_in(
        self, arriving: deque[tuple[list[int], int]], produced: dict[str, list[int]]
    ) -> None:
        """Admit several steps' worth, as an engine's loop takes in what waits at its socket; the
        device works while the rest arrives."""
        tokens = 0
        while arriving and tokens < _ARRIVING_TOKENS:
            prompt, most = arriving.popleft()
            tokens += len(prompt)
            self.requests += 1
            name = str(self.requests)
            produced[name] = []
            sampling = SamplingParams(temperature=0.0, max_tokens=most, ignore_eos=True, seed=0)
            request = Request(request_id=name, prompt_ids=tuple(prompt), sampling=sampling)
            answer = self.engine.add(request)
            if type(answer).__name__ == "Rejected":
                raise SystemExit(f"refused: {answer}")

    def settle(self) -> None:
        """What the engine process does when it is ready: the collector forgets the past."""
        gc.collect()
        gc.freeze()

    def facts(self) -> dict[str, Any]:
        """What was chosen, and the executor's counters."""
        stats = self.executor.stats()
        return {
            "device": self.plan.probe.reason,
            "placement": self.plan.topology.placement,
            "blocks": self.num_blocks,
            "block_size": self.block_size,
            "choices": {f"{c.kind} {c.site}": c.owner for c in self.executor.choices()},
            "compiles": stats.compiles,
            "compiles_after_start": stats.compiles_after_start,
            "compile_seconds": stats.compile_seconds,
            "host_syncs": stats.host_syncs,
            "padded_tokens": stats.padded_tokens,
            "real_tokens": stats.real_tokens,
            "fallbacks": dict(stats.fallbacks),
        }

    def close(self) -> None:
        """Give the device back."""
        self.executor.close()
        gc.unfreeze()
        gc.collect()
        if self.plan.device == "cuda":
            import torch  # the engine's own code does without it

            torch.cuda.empty_cache()


def _quiet(phase: str, done: int, total: int, detail: str) -> None:
    pass
