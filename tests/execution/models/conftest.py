"""Run a model without paging: every token attends to the whole sequence given to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from inferplane.checkpoint import open_checkpoint
from inferplane.execution.host_runtime import HostRuntime
from inferplane.hookspecs import Register
from inferplane.interfaces import Capabilities, EngineConfig
from inferplane.layers.build import AttentionSite, Builder
from inferplane.loading import iterate_weights
from inferplane.model_config import ModelConfig, read_model_config
from inferplane.models.choice import choose_model
from inferplane.models.plugin import register_models
from inferplane.ops.bind import Binder
from inferplane.quantization.plugin import register_quantization_formats
from inferplane.registry import Catalogue, Entry


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
