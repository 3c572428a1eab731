"""Compiled steps against the same model run over whole sequences with the core's references."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from inferplane.execution.attention_plan import AttentionPart
from inferplane.execution.host_runtime import HostRuntime
from inferplane.execution.programs import part_prefix, step_function
from inferplane.execution.torch_allocator import TorchAllocator
from inferplane.interfaces import (
    AttentionMeta,
    AttentionSpec,
    Bucket,
    Capabilities,
    EngineConfig,
    KVGroup,
    KVPlan,
)
from inferplane.layers.build import Builder
from inferplane.loading.weights import dummy_weights
from inferplane.model_config import ModelConfig, RopeConfig
from inferplane.models.gemma3 import Gemma3
from inferplane.models.llama import Llama
from inferplane.models.qwen2 import Qwen2
from inferplane.models.qwen3 import Qwen3
from inferplane.ops.bind import Binder
from inferplane.ops.reference.sampling import argmax
from inferplane.registry import Catalogue, Entry
from inferplane_cpu.attention.native import NativeAttention
from inferplane_cpu.compiler import proof
from inferplane_cpu.compiler.capture import NotLoweredError, Recording, Symbol
from inferplane_cpu.compiler.step_compiler import StepCompiler
from inferplane_cpu.native.library import NATIVE
from inferplane_cpu.native.machine import Machine
from inferplane_cpu.native.store import LAYOUT, PanelKVStore

BLOCK = 32
"""Tokens a block."""
MAX_LEN = 512
CONFIG = ModelConfig(
    architecture="",
    model_type="",
    num_layers=3,
    hidden_size=64,
    intermediate_size=96,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    vocab_size=203,
    max_position=MAX_LEN,
    dtype="float32",
    norm_eps=1e-5,
    activation="silu",
    rope=RopeConfig(),
    window_rope=RopeConfig(),
    layer_windows=(None, None, None),
    attention_scale=32**-0.5,
    tie_embeddings=True,
)
MODELS: dict[str, tuple[Any, ModelConfig]] = {
    "llama": (Llama, CONFIG),
    "llama, untied": (Llama, replace(CONFIG, tie_embeddings=False)),
    "mistral with a window": (Llama, replace(CONFIG, layer_windows=(20, 20, 20))),
    "qwen2 with biases": (Qwen2, replace(CONFIG, attention_bias=True)),
    "qwen3 with head norms": (Qwen3, CONFIG),
    "gemma3": (
        Gemma3,
        replace(
            CONFIG,
            activation="gelu_pytorch_tanh",
            layer_windows=(20, 20, None),
            window_rope=RopeConfig(theta=1000.0),
            embedding_scale=8.0,
            logits_softcap=30.0,
        ),
    ),
}


class WithMachine(HostRuntime):
    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self.machine = machine


class WholeSequence:
    """A ForwardContext for one sequence from position 0, by plain masked attention."""

    def __init__(self, sites: Any, length: int) -> None:
        self.sites = {site.name: site for site in sites}
        self.rows = torch.arange(length)

    def attend(self, layer: str, q: Tensor, k: Tensor | None, v: Tensor | None) -> Tensor:
        assert k is not None and v is not None
        site = self.sites[layer]
        group = site.num_heads // site.num_kv_heads
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        scores = q @ k.repeat_interleave(group, 0).transpose(1, 2) * site.scale
        hidden = self.rows > self.rows[:, None]
        if site.window is not None:
            hidden |= self.rows <= self.rows[:, None] - site.window
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        return (weights @ v.repeat_interleave(group, 0)).transpose(0, 1)


def ints(values: object) -> Tensor:
    return torch.as_tensor(values, dtype=torch.int32)


@dataclass
class Setup:
    model: Any
    program: Any
    kv: dict[str, object]
    groups: int

    def step(self, parts: list[tuple[list[int], int]]) -> dict[str, Tensor]:
        """Run (tokens so far, how many are new) for each sequence; sequence s owns its blocks."""
        ids, positions, slots, start = [], [], [], [0]
        width = MAX_LEN // BLOCK
        tables = ints([[1 + s * width + b for b in range(width)] for s in range(len(parts))])
        for s, (tokens, new) in enumerate(parts):
            ids += tokens[-new:]
            mine = range(len(tokens) - new, len(tokens))
            positions += mine
            slots += [int(tables[s, p // BLOCK]) * BLOCK + p % BLOCK for p in mine]
            start.append(start[-1] + new)
        inputs = {
            "token_ids": ints(ids),
            "positions": ints(positions),
            "token_source": torch.zeros(len(ids), dtype=torch.int32),
            "previous": torch.full((4,), -1, dtype=torch.int32),
            "rows": ints([stop - 1 for stop in start[1:]]),
        }
        for group in range(self.groups):
            first = group * 4 * width  # groups share tensors, so a block serves one of them
            inputs |= {
                part_prefix(group) + "query_start": ints(start),
                part_prefix(group) + "seq_lens": ints([len(tokens) for tokens, _ in parts]),
                part_prefix(group) + "tables": tables + first,
                part_prefix(group) + "slots": ints(slots) + first * BLOCK,
            }
        with torch.inference_mode():
            if self.program is None:
                return inputs
            return dict(self.program(self.kv, inputs))

    def expected(self, tokens: list[int]) -> Tensor:
        with torch.inference_mode():
            context = WholeSequence(self.model.sites, len(tokens))
            hidden = self.model.forward(ints(tokens), torch.arange(len(tokens)).int(), context)
            logits: Tensor = self.model.logits(hidden[-1:])
            return logits[0]


INT8 = {"num_bits": 8, "type": "int"}
QUANTISED = {
    "inputs in 16 bits": {"quant_method": "online", "weights": "int4"},
    "inputs in 8 bits": {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": INT8 | {"strategy": "channel"},
                "input_activations": INT8 | {"strategy": "token", "dynamic": True},
            }
        },
    },
}
OPS = (
    "rms_norm",
    "add_rms_norm",
    "rotary",
    "silu_mul",
    "gelu_mul",
    "embedding",
    "linear",
    "logits",
)


def kernels() -> Catalogue:
    target = "inferplane_cpu.kernels.ops:"
    ops = [("kernels", Entry(f"{n}/1", target + n, "cpu")) for n in OPS]
    native = Entry("native", "inferplane_cpu.quantization.native:NativeLinear", "cpu")
    online = Entry("online", "inferplane.quantization.online:Online", "core")
    packed = Entry(
        "compressed-tensors", "inferplane.quantization.compressed_tensors:CompressedTensors", "core"
    )
    formats = [("quantization_formats", entry) for entry in (online, packed)]
    return Catalogue([*ops, ("quantization_kernels", native), *formats])


def make(machine: Machine, name: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Setup:
    kind, config = MODELS[name]
    config = replace(config, **changes)
    engine = EngineConfig("", max_model_len=MAX_LEN)
    binder = Binder(kernels(), ("cpu",), Capabilities(labels=(NATIVE,)), engine)
    device = WithMachine(machine)
    build = Builder(config, binder, dtype, "cpu", runtime=device)
    model = kind(config, build)
    model.load(dummy_weights(model, 0))
    dtype_name = build.dtype_name
    windows = list(dict.fromkeys(config.layer_windows))
    parts, groups = [], []
    for index, window in enumerate(windows):
        sites = [site for site in build.attention_sites if site.window == window]
        spec = AttentionSpec(
            4, 2, 32, 32, dtype_name, dtype_name, sites[0].scale, BLOCK, index, window=window
        )
        layers = tuple(site.name for site in sites)
        parts.append(AttentionPart(spec, NativeAttention(spec, device), LAYOUT, layers, False))
        kv = tuple(replace(site.kv(dtype_name), layout=LAYOUT) for site in sites)
        groups.append(KVGroup(kv, window))
    store = PanelKVStore(device, TorchAllocator())
    store.allocate(KVPlan(1 + 8 * MAX_LEN // BLOCK, BLOCK, tuple(groups)))
    handles = {site.name: store.layer(site.name) for site in build.attention_sites}
    names = dict.fromkeys(("query_start", "seq_lens", "tables", "slots"))
    metas = [AttentionMeta((), names) for _ in parts]
    fn = step_function(model, parts, metas, argmax)
    setup = Setup(model, None, handles, len(parts))
    example = setup.step([([1, 2], 2)])
    compiler = StepCompiler(machine, MAX_LEN, 4)
    setup.program = compiler.compile(fn, Bucket("mixed", 64, 4), handles, example)
    assert compiler.refused == []
    return setup


def random_tokens(count: int, seed: int) -> list[int]:
    make = torch.Generator().manual_seed(seed)
    return torch.randint(0, CONFIG.vocab_size, (count,), generator=make).tolist()


@pytest.mark.parametrize("name", MODELS)
def test_a_compiled_step_computes_the_models_logits(machine: Machine, name: str) -> None:
    setup = make(machine, name)
    a, b, c = random_tokens(60, 1), random_tokens(33, 2), random_tokens(7, 3)
    steps = [
        [(a[:40], 40)],  # prefill
        [(a[:41], 1), (b[:20], 20)],  # decode beside a first chunk
        [(a[:42], 1), (b[:33], 13), (c, 7)],  # mixed, one prompt ends
        [(a[:43], 1)],  # decode alone
    ]
    for parts in steps:
        out = setup.step(parts)
        expected = torch.stack([setup.expected(tokens) for tokens, _ in parts])
        torch.testing.assert_close(out["logits"], expected, atol=2e-4, rtol=1e-4)
        assert out["ids"].tolist() == expected.argmax(1).tolist()


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_a_compiled_step_in_bf16_stays_near_float32(machine: Machine, name: str) -> None:
    exact, rounded = make(machine, name), make(machine, name, torch.bfloat16)
    tokens = random_tokens(50, 4)
    near = rounded.step([(tokens, 50)])["logits"].log_softmax(-1)
    true = exact.step([(tokens, 50)])["logits"].log_softmax(-1)
    assert (near - true).abs().mean() < 0.05


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_a_compiled_step_by_tiles_stays_near_float32(
    tiled: Machine, untiled: Machine, name: str
) -> None:
    exact, rounded = make(untiled, name), make(tiled, name, torch.bfloat16)
    tokens = random_tokens(50, 4)
    near = rounded.step([(tokens, 50)])["logits"].log_softmax(-1)
    true = exact.step([(tokens, 50)])["logits"].log_softmax(-1)
    assert (near - true).abs().mean() < 0.05


def test_a_row_is_the_same_alone_and_in_a_batch(machine: Machine) -> None:
    setup = make(machine, "llama", torch.bfloat16)
    a, b = random_tokens(30, 5), random_tokens(29, 6)
    setup.step([(a[:29], 29), (b[:28], 28)])
    together = setup.step([(a, 1), (b, 1)])["logits"][0].clone()
    assert torch.equal(setup.step([(a, 1)])["logits"][0], together)


@pytest.mark.parametrize("name", QUANTISED)
def test_a_step_of_layers_that_round_their_inputs_is_held_to_their_rounding(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(proof.DTYPE_LIMITS, torch.float32, 0.0)
    setup = make(machine, "llama", quantization=QUANTISED[name])
    tokens = random_tokens(20, 7)
    logits = setup.step([(tokens, 20)])["logits"][0]
    torch.testing.assert_close(logits, setup.expected(tokens), atol=1e-3, rtol=1e-3)
    with pytest.raises(AssertionError, match="differs from torch"):
        make(machine, "llama")


def test_a_step_that_reads_values_on_the_host_is_refused_by_name() -> None:
    recording = Recording()
    x = Symbol(torch.empty(7, 4, device="meta"), recording, "x")
    for read, name in ((x.tolist, "tolist"), (x.sum().item, "item")):
        with pytest.raises(NotLoweredError, match=f"{name} asks for a number on the host"):
            read()
