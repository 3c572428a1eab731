"""Hundreds of damaged model files: each is refused by name, in little time and memory."""

from __future__ import annotations

import json
import resource
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from inferplane.checkpoint import open_checkpoint
from inferplane.errors import InferplaneError, ModelError
from inferplane.interfaces import Capabilities, EngineConfig
from inferplane.layers.build import Builder
from inferplane.loading import iterate_weights
from inferplane.model_config import read_model_config
from inferplane.models.llama import Llama
from inferplane.ops.bind import Binder
from inferplane.registry import Catalogue
from inferplane.testing.tiny import write_tiny_model

torch = pytest.importorskip("torch")

CASES = {"small": 300, "full": 5000}
MARKER = "ran"
ABSURD: list[object] = [
    -1, 0, 1.5, True, "64", None, [], {}, 2**31, 2**40, 2**63, -(2**63), 1e308, float("nan"),
]  # fmt: skip
NUMBERS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "rms_norm_eps",
    "rope_theta",
    "max_position_embeddings",
)
MEANINGFUL = (
    ("num_key_value_heads", None),
    ("rms_norm_eps", None),
    ("rope_theta", None),
    ("rope_theta", 1.5),
    ("rope_theta", 2**31),
)


def load(folder: Path) -> None:
    """Everything that a start does with the files, on no device in particular."""
    checkpoint = open_checkpoint(folder)
    config = read_model_config(checkpoint, "float32")
    engine = EngineConfig(str(folder), max_model_len=64)
    binder = Binder(Catalogue(), (), Capabilities(), engine)
    model = Llama(config, Builder(config, binder, torch.float32, "cpu", 0, 1, None))
    model.load(iterate_weights(checkpoint))


# ── the corpus: (name, what it does to a good folder) ──

Damage = Callable[[Path], None]


def replaced(name: str, data: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(data) and None


def header_of(whole: bytes) -> tuple[dict[str, dict[str, object]], int]:
    (length,) = struct.unpack("<Q", whole[:8])
    return json.loads(whole[8 : 8 + length]), length


def same_tensors(whole: bytes, header: dict[str, dict[str, object]]) -> bool:
    try:
        found, _ = header_of(whole)
    except ValueError:
        return False
    return {**found, "__metadata__": 0} == {**header, "__metadata__": 0}


def rebuilt(header: object, data: bytes, length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def weights_cases(whole: bytes, rng) -> Iterator[tuple[str, Damage]]:
    header, length = header_of(whole)
    data = whole[8 + length :]
    for part in range(64):
        cut = len(whole) * part // 64
        yield f"cut at {part}/64", replaced("model.safetensors", whole[:cut])
    for place in range(8 + length):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.randrange(8)
        if same_tensors(bytes(flipped), header):
            continue  # a word of the metadata, which nobody reads
        yield f"header byte {place}", replaced("model.safetensors", bytes(flipped))
    for size in (2**63, 2**64 - 1, 2**40, len(whole), length + 1, length - 1, 0):
        changed = rebuilt(header, data, size)
        yield f"length {size}", replaced("model.safetensors", changed)
    for name in header:
        if name == "__metadata__":
            continue
        for what, change in (
            ("missing", None),
            ("shape of 2^62", {"shape": [0, 2**62]}),
            ("negative shape", {"shape": [-1]}),
            ("misshapen", {"shape": [*header[name]["shape"], 1, 1]}),
            ("another dtype", {"dtype": "I32"}),
            ("unknown dtype", {"dtype": "F33"}),
            ("offsets backwards", {"data_offsets": [16, 0]}),
            ("offsets past the end", {"data_offsets": [0, 2**62]}),
            ("code", {"code": "import os"}),
        ):
            odd = {n: dict(entry) for n, entry in header.items()}
            if change is None:
                del odd[name]
            else:
                odd[name].update(change)
            yield f"{name} {what}", replaced("model.safetensors", rebuilt(odd, data))
    for value in (float("nan"), float("inf")):
        bad = struct.pack("<f", value) * (len(data) // 4)
        yield f"weights {value}", replaced("model.safetensors", whole[: 8 + length] + bad)


def config_cases(folder: Path) -> Iterator[tuple[str, Damage]]:
    good = json.loads((folder / "config.json").read_text())
    for key in NUMBERS:
        for value in ABSURD:
            if (key, value) in MEANINGFUL:
                continue
            text = json.dumps(good | {key: value}).encode()
            yield f"config {key}={value}", replaced("config.json", text)
    for text in (b"", b"{", b"[]", b"null", b'{"a":' * 500, b"\xff\xfe", b'{"a": 1, "a": 2}'):
        yield f"config {text[:8]!r}", replaced("config.json", text)
    for architecture in (["GoneForCausalLM"], [], "LlamaForCausalLM", [5], None):
        text = json.dumps(good | {"architectures": architecture, "model_type": 7}).encode()
        yield f"config architectures={architecture}", replaced("config.json", text)
    for suffix in ("bin", "pt", "pth", "ckpt"):
        yield f"pickle .{suffix}", lambda folder, suffix=suffix: pickled(folder, suffix)


def pickled(folder: Path, suffix: str) -> None:
    (folder / "model.safetensors").unlink()
    code = f"cposix\nsystem\n(S'touch {folder / MARKER}'\ntR.".encode()
    (folder / f"pytorch_model.{suffix}").write_bytes(code)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf_cases(rng) -> Iterator[tuple[str, Damage]]:
    pairs = text("general.architecture") + struct.pack("<I", 8) + text("llama")
    info = text("token_embd.weight") + struct.pack("<IQQIQ", 2, 8, 4, 0, 0)

    def made(
        tensors: int = 1, keys: int = 1, body: bytes = pairs + info, version: int = 3
    ) -> bytes:
        head = b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + body
        return head + bytes(-len(head) % 32) + bytes(128)

    def nested(depth: int) -> bytes:
        array = struct.pack("<IQ", 9, 1) * depth
        return text("general.deep") + struct.pack("<I", 9) + array

    odd = {
        "tensors 2^63": made(tensors=2**63),
        "keys 2^63": made(keys=2**63),
        "tensors 2^31": made(tensors=2**31),
        "version 9": made(version=9),
        "nested 10000": made(0, 1, nested(10_000)),
        "key of 2^63 bytes": made(0, 1, struct.pack("<Q", 2**63)),
        "offset past the end": made(
            body=pairs + text("x") + struct.pack("<IQQIQ", 2, 8, 4, 0, 2**40)
        ),
        "dimensions that wrap": made(
            body=pairs + text("x") + struct.pack("<IQQIQ", 2, 2**32 + 8, 2**32 + 4, 0, 0)
        ),
        "nine dimensions": made(body=pairs + text("x") + struct.pack("<I9QIQ", 9, *[1] * 9, 0, 0)),
        "unknown type": made(body=pairs + text("x") + struct.pack("<IQQIQ", 2, 8, 4, 99, 0)),
        "alignment 0": made(
            1, 2, pairs + text("general.alignment") + struct.pack("<II", 4, 0) + info
        ),
        "alignment 3": made(
            1, 2, pairs + text("general.alignment") + struct.pack("<II", 4, 3) + info
        ),
    }
    whole = made()
    odd |= {f"cut at {cut}": whole[:cut] for cut in range(0, len(whole), 3)}
    for name, data in odd.items():
        yield f"gguf {name}", lambda folder, data=data: as_gguf(folder, data)


def as_gguf(folder: Path, data: bytes) -> None:
    for file in folder.iterdir():
        file.unlink()
    (folder / "model.gguf").write_bytes(data)


@pytest.mark.case("checkpoints")
@pytest.mark.case("lying-sizes")
@pytest.mark.case("pickle-checkpoint")
@pytest.mark.case("gguf-dims")
def test_malformed_checkpoints(tmp_path, rng, record, full) -> None:
    good = tmp_path / "good"
    write_tiny_model(good, "llama")
    load(good)
    whole = (good / "model.safetensors").read_bytes()
    weights = list(weights_cases(whole, rng))
    cases = [*config_cases(good), *gguf_cases(rng)]
    wanted = CASES["full" if full else "small"]
    rng.shuffle(weights)
    cases += weights[: max(wanted - len(cases), 0)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    slowest, accepted, unnamed = 0.0, [], []
    folder = tmp_path / "bad"
    for name, damage in cases:
        shutil.copytree(good, folder)
        damage(folder)
        began = time.monotonic()
        try:
            load(folder)
        except InferplaneError as error:
            assert isinstance(error, ModelError) or error.exit_code in (2, 3), name
            if str(folder) not in str(error):
                unnamed.append(f"{name}: {error}")
        else:
            accepted.append(name)
        slowest = max(slowest, time.monotonic() - began)
        assert not (folder / MARKER).exists(), name
        shutil.rmtree(folder)
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    record(
        files=len(cases),
        refused=len(cases) - len(accepted),
        slowest_s=round(slowest, 3),
        memory_grew_mib=round(grown_mib, 1),
    )
    assert not accepted, accepted
    assert not unnamed, unnamed
    assert len(cases) >= 300
    assert grown_mib <= 64
    if full:
        assert slowest <= 2.0
