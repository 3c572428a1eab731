"""AWS Trainium and Inferentia: what is found on this machine, and what its programs can serve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from inferplane.errors import ConfigError
from inferplane.interfaces import (
    Capabilities,
    Change,
    EngineConfig,
    Executor,
    ModelShape,
    Platform,
    Probe,
    SamplerCaps,
    SchedulerLimits,
    ShapePolicy,
    Topology,
    WorkerContext,
)
from inferplane.probing import pci_devices, read_text
from inferplane.shapes import Rectangles
from inferplane_neuron import _sdk

__all__ = ["MAX_TOP_K", "Neuron", "blocks_of"]

_PCI_VENDOR = "0x1d0f"
_GENERATIONS = {
    "0x7164": "trn1",
    "0x7264": "inf2",
    "0x7364": "trn2",
    "0x7564": "trn3",
    "0x7565": "trn3",
}
"""PCI device id -> generation; the vendor's network and disk functions are no chips."""
_BLOCK_SIZE = 128
_WIDENED = "gguf"
"""The format whose blocks the core widens by itself."""
_OPTIONS = {
    "kv": "blocks (default), which prompts with the same beginning share, or regions: one for each "
    "request, as long as max_model_len"
}
MAX_TOP_K = 256
"""Candidates that the chip's own top-k gives."""
_ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
_CORES = {"trn1": 2, "inf2": 2, "trn2": 8, "trn3": 8}
"""Physical cores of a chip."""
_GROUPED = ("trn2", "trn3")
"""Two physical cores are one logical core there, unless NEURON_LOGICAL_NC_CONFIG says 1."""
_TOO_OLD = ("0x7064", "0x7065", "0x7066", "0x7067")
"""First generation (inf1): another SDK, which cannot run decoders."""


class Neuron(Platform):
    """PCI bus and kernel driver say what is there; the SDK is not loaded to find out."""

    def __init__(self, root: Path = Path("/")) -> None:
        """`root`: the file system whose /dev and /sys are read."""
        self._root = root

    def probe(self, env: Mapping[str, str]) -> Probe:
        """Chips and driver first, then the Python stack."""
        seen = pci_devices(self._root, _PCI_VENDOR)
        chips = [_GENERATIONS[device] for device in seen if device in _GENERATIONS]
        versions = _sdk.versions()
        driver = read_text(self._root / "sys/module/neuron/version")
        if driver:
            versions["neuron driver"] = driver
        arch = chips[0] if chips else ""
        cores = len(chips) * _logical_cores(arch, env)
        found = f"{len(chips)} x {arch}"
        reason = _driver_problem(self._root, found if chips else "", seen)
        if not reason and (missing := _sdk.problem()):
            reason = f"{found} found, but {missing}"
        if reason:
            return Probe(False, reason, device_count=cores, arch=arch, versions=versions)
        return Probe(
            True,
            f"{found} with {cores} cores, torch-neuronx {versions['torch-neuronx']}",
            score=50,
            device_count=cores,
            arch=arch,
            versions=versions,
        )

    def capabilities(self, probe: Probe, model: ModelShape | None) -> Capabilities:
        """Prompts alone, whole or in chunks; draws among the best `MAX_TOP_K` on the device."""
        return Capabilities(
            compute_dtypes=("bfloat16", "float32"),
            static_shapes=True,
            limits=SchedulerLimits(max_prefill_seqs=1, chunked_prefill=True, prefix_cache=True),
            sampler=SamplerCaps(
                params=("temperature", "top_k", "top_p", "min_p", "seed"), max_top_k=MAX_TOP_K
            ),
            options=_OPTIONS,
        )

    def resolve(
        self, config: EngineConfig, caps: Capabilities, model: ModelShape
    ) -> tuple[Change, ...]:
        """Blocks of KV, or one region a request."""
        if model.architecture not in _ARCHITECTURES:
            raise ConfigError(
                f"neuron compiles {', '.join(_ARCHITECTURES)}, not {model.architecture}"
            )
        changes = []
        if model.quantization == _WIDENED and config.quantization != "none":
            reason = "programs multiply no codes: blocks are widened while loading"
            changes.append(Change("quantization", "none", reason))
        elif model.quantization and model.quantization != _WIDENED:
            raise ConfigError(
                f"neuron serves no {model.quantization} checkpoints yet: take one of bfloat16"
            )
        kv = config.options.get("kv", "blocks")
        if kv not in ("blocks", "regions"):
            raise ConfigError(f"option kv={kv!r}: it takes blocks or regions")
        if kv == "regions":
            size, reason = config.max_model_len, "a request owns one region of KV"
        else:
            size = min(config.block_size or _BLOCK_SIZE, config.max_model_len)
            reason = "blocks of KV are shared by prompts that begin alike"
        if config.block_size != size:
            changes.append(Change("block_size", size, reason))
        return tuple(changes)

    def topology(self, config: EngineConfig, caps: Capabilities) -> Topology:
        """One process for all cores that share the model, since the runtime belongs to one."""
        return Topology(1, config.tensor_parallel)

    def worker_env(self, config: EngineConfig, rank: int) -> Mapping[str, str]:
        """The runtime takes every core of the machine unless it is told how many."""
        return {"NEURON_RT_NUM_CORES": str(config.tensor_parallel)}

    def shapes(self, config: EngineConfig, caps: Capabilities) -> ShapePolicy:
        """Few: each is a compilation of minutes. Sizes grow by four."""
        seqs = config.max_num_seqs
        longest = min(config.max_model_len, config.max_batched_tokens)
        return Rectangles(
            decode_batches=_sizes(1, seqs),
            prefill_batches=(1,),
            queries=_sizes(32, longest),
            context_blocks=(seqs * blocks_of(config),),
            max_tokens=max(seqs, longest),
        )

    def create_executor(self, context: WorkerContext) -> Executor:
        from inferplane_neuron.executor import NeuronExecutor  # torch must not reach the planner
        from inferplane_neuron.traced import SpmdDriver, TraceDriver  # likewise

        cores = context.config.tensor_parallel
        if missing := _sdk.problem(cores):
            raise ConfigError(f"neuron on {cores} cores: {missing}")
        return NeuronExecutor(context, TraceDriver() if cores == 1 else SpmdDriver(cores))


def blocks_of(config: EngineConfig) -> int:
    """Blocks of the longest context."""
    return -(-config.max_model_len // (config.block_size or config.max_model_len))


def _sizes(least: int, most: int) -> tuple[int, ...]:
    """`least`, four times that, and so on; `most` is the last."""
    sizes = []
    while least < most:
        sizes.append(least)
        least *= 4
    return (*sizes, most)


def _logical_cores(arch: str, env: Mapping[str, str]) -> int:
    """Cores of a chip as programs see them."""
    group = 2 if arch in _GROUPED and env.get("NEURON_LOGICAL_NC_CONFIG") != "1" else 1
    return _CORES.get(arch, 0) // group


def _driver_problem(root: Path, found: str, seen: tuple[str, ...]) -> str:
    if not found:
        if any(device in _TOO_OLD for device in seen):
            return "only first-generation Inferentia (inf1) found: its SDK cannot run decoders"
        return "no Trainium or Inferentia found: the PCI bus shows no chip of a known generation"
    if not list(root.glob("dev/neuron[0-9]*")):
        return (
            f"{found} on the PCI bus, but /dev/neuron* is missing: load the driver (module neuron)"
        )
    return ""
