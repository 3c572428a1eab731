"""A model's files are read within bounds; each damaged one is refused by name and fault."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inferplane.checkpoint import open_checkpoint
from inferplane.errors import ModelError
from inferplane.model_config import read_model_config

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 10,
    "max_position_embeddings": 64,
}
U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10
BUDGET_BYTES = 8_000_000
"""Most memory that refusing one of these small files may take."""


def safetensors(header: object, data: bytes = bytes(16), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape: list[Any], begin: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


GOOD = {"a": tensor([2, 2], 0, 16)}


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def u32(key: str, value: int) -> bytes:
    return pair(key, U32, struct.pack("<I", value))


def f32(key: str, value: float) -> bytes:
    return pair(key, F32, struct.pack("<f", value))


def strings(key: str, values: list[str | bytes], count: int | None = None) -> bytes:
    number = len(values) if count is None else count
    head = struct.pack("<IQ", STRING, number)
    return pair(key, ARRAY, head + b"".join(text(value) for value in values))


ARCHITECTURE = pair("general.architecture", STRING, text("llama"))
NUMBERS = {
    "llama.block_count": 1,
    "llama.context_length": 64,
    "llama.embedding_length": 8,
    "llama.feed_forward_length": 16,
    "llama.attention.head_count": 2,
    "llama.attention.head_count_kv": 1,
}
PAIRS = [
    ARCHITECTURE,
    *(u32(key, value) for key, value in NUMBERS.items()),
    f32("llama.attention.layer_norm_rms_epsilon", 1e-5),
    f32("llama.rope.freq_base", 10_000.0),
    strings("tokenizer.ggml.tokens", ["a", "b", "c", "<|im_end|>"]),
    pair("tokenizer.ggml.token_type", ARRAY, struct.pack("<IQ4i", I32, 4, 1, 1, 1, 3)),
    u32("tokenizer.ggml.eos_token_id", 2),
    u32("tokenizer.ggml.bos_token_id", 1),
]


def info(name: str, dims: list[int], kind: int = 0, offset: int = 0) -> bytes:
    shape = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return text(name) + shape + struct.pack("<IQ", kind, offset)


EMBEDDING = info("token_embd.weight", [8, 4])


def gguf(
    pairs: list[bytes] = PAIRS,
    infos: list[bytes] | None = None,
    data: int = 128,
    version: int = 3,
    num_pairs: int | None = None,
    num_infos: int | None = None,
) -> bytes:
    infos = [EMBEDDING] if infos is None else infos
    head = b"GGUF" + struct.pack(
        "<IQQ",
        version,
        len(infos) if num_infos is None else num_infos,
        len(pairs) if num_pairs is None else num_pairs,
    )
    body = head + b"".join(pairs) + b"".join(infos)
    return body + bytes(-len(body) % 32) + bytes(data)


def changed(key: str, raw: bytes) -> bytes:
    """The good GGUF with one key-value replaced."""
    kept = [p for p in PAIRS if not p.startswith(text(key))]
    assert len(kept) == len(PAIRS) - 1
    return gguf([*kept, raw])


BAD_SAFETENSORS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "header of 0 bytes, the file has 0"),
    "seven-bytes": (bytes(7), "the file has 7 bytes"),
    "header-past-end": (safetensors(GOOD, length=4096), "header of 4096 bytes"),
    "header-2^63": (safetensors(GOOD, length=2**63), "header of 9223372036854775808 bytes"),
    "header-100MB-claimed": (safetensors(GOOD, length=99_999_999), "header of 99999999"),
    "header-empty": (safetensors(b"", b""), "not valid JSON"),
    "header-list": (safetensors([]), "a list where a JSON object"),
    "header-number": (safetensors(7), "a number where a JSON object"),
    "header-cut": (safetensors(b'{"a": {"dtype"'), "not valid JSON"),
    "header-not-utf8": (safetensors(b'{"\xff": 1}'), "not valid JSON"),
    "header-nested": (safetensors(b'{"a":' + b"[" * 5000), "not valid JSON"),
    "header-twice": (safetensors(b'{"a": 1, "a": 2}'), "Detected duplicate key"),
    "many-values": (safetensors(b"[" + b"0," * 1_700_000), "values, at most"),
    "entry-null": (safetensors({"a": None}), "tensor 'a': its header entry"),
    "entry-extra": (safetensors({"a": GOOD["a"] | {"code": 1}}), "needs exactly dtype"),
    "entry-without-shape": (safetensors({"a": {"dtype": "F32"}}), "needs exactly dtype"),
    "dtype-unknown": (safetensors({"a": tensor([4], 0, 16, "F33")}), "dtype 'F33' is unknown"),
    "dtype-number": (safetensors({"a": tensor([4], 0, 16, 3)}), "dtype 3 is unknown"),
    "dtype-lie": (safetensors({"a": tensor([4], 0, 16, "F64")}), "needs 32 bytes"),
    "shape-float": (safetensors({"a": tensor([2.0, 2], 0, 16)}), "shape is not a list of int"),
    "shape-bool": (safetensors({"a": tensor([True, 4], 0, 16)}), "shape is not a list of int"),
    "shape-text": (safetensors({"a": tensor("22", 0, 16)}), "shape is not a list"),  # type: ignore[arg-type]
    "shape-negative": (safetensors({"a": tensor([-1, -4], 0, 16)}), "outside 0..2\\^48"),
    "shape-huge-and-zero": (safetensors({"a": tensor([0, 2**62], 0, 0)}, b""), "outside 0..2"),
    "shape-product": (safetensors({"a": tensor([2**40, 2**40], 0, 16)}), "more than 2\\^48"),
    "shape-wraps": (safetensors({"a": tensor([2**32, 2**32, 4], 0, 16)}), "more than 2\\^48"),
    "shape-deep": (safetensors({"a": tensor([1] * 99, 0, 4)}), "99 dimensions"),
    "shape-lie": (safetensors({"a": tensor([2, 3], 0, 16)}), "needs 24 bytes"),
    "offsets-reversed": (safetensors({"a": tensor([4], 16, 0)}), "are not a range"),
    "offsets-negative": (safetensors({"a": tensor([4], -16, 0)}), "are not a range"),
    "offsets-three": (
        safetensors({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16, 32]}}),
        "are not a range",
    ),
    "offsets-past-end": (safetensors({"a": tensor([8], 0, 32)}), "cut off or damaged"),
    "offsets-2^62": (safetensors({"a": tensor([4], 2**62, 2**62 + 16)}), "cut off or damaged"),
    "data-short": (safetensors(GOOD, bytes(15)), "cut off or damaged"),
    "data-long": (safetensors(GOOD, bytes(17)), "cut off or damaged"),
    "data-hole": (
        safetensors({"a": tensor([1], 0, 4), "b": tensor([1], 8, 12)}, bytes(12)),
        "overlap or leave a gap",
    ),
    "data-overlap": (
        safetensors({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, bytes(12)),
        "'a' and 'b' overlap",
    ),
    "data-without-tensors": (safetensors({}), "cut off or damaged"),
}

BAD_GGUF: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cannot be read as GGUF"),
    "magic": (b"GGML" + gguf()[4:], "does not begin with GGUF"),
    "only-magic": (b"GGUF", "ends at byte 4, inside the version"),
    "version-1": (gguf(version=1), "GGUF version 1, accepted: 2 and 3"),
    "version-99": (gguf(version=99), "GGUF version 99"),
    "big-endian": (gguf(version=0x03000000), "big-endian files are not accepted"),
    "tensors-2^63": (gguf(num_infos=2**63), "claims 9223372036854775808 tensors"),
    "pairs-2^63": (gguf(num_pairs=2**63), "claims 9223372036854775808 key-values"),
    "pairs-more-than-file": (gguf(num_pairs=60_000), "claims 60000 key-values"),
    "tensors-more-than-there": (gguf(num_infos=3), "0 dimensions"),
    "key-2^60": (gguf([struct.pack("<QI", 2**60, 4)] + PAIRS), "a key claims"),
    "key-not-utf8": (gguf([text(b"\xff\xfe") + struct.pack("<II", U32, 1)]), "a key is not UTF-8"),
    "key-twice": (gguf([*PAIRS, ARCHITECTURE]), "'general.architecture' occurs twice"),
    "value-type-77": (gguf([pair("x", 77, b"")]), "'x' has the unknown value type 77"),
    "bool-5": (gguf([pair("x", BOOL, b"\x05")]), "has the boolean 5"),
    "string-past-end": (
        gguf([pair("x", STRING, struct.pack("<Q", 10**9))]),
        "the value of 'x' claims 1000000000 bytes",
    ),
    "array-2^63": (
        gguf([pair("x", ARRAY, struct.pack("<IQ", U64, 2**63))]),
        "claims 9223372036854775808 elements of 'x'",
    ),
    "array-of-strings-2^40": (gguf([strings("x", [], 2**40)]), "claims 1099511627776 elements"),
    "array-string-cut": (
        gguf([pair("x", ARRAY, struct.pack("<IQQ", STRING, 1, 10**9))]),
        "string 0 of 'x' is cut off",
    ),
    "array-string-not-utf8": (gguf([strings("x", [b"\xff"])]), "string 0 of 'x' is not UTF-8"),
    "array-nested": (
        gguf([pair("x", ARRAY, struct.pack("<IQ", ARRAY, 1) * 9000)]),
        "nested arrays are not accepted",
    ),
    "array-type-77": (gguf([pair("x", ARRAY, struct.pack("<IQ", 77, 1))]), "unknown type 77"),
    "alignment-0": (gguf([*PAIRS, u32("general.alignment", 0)]), "no power of two"),
    "alignment-33": (gguf([*PAIRS, u32("general.alignment", 33)]), "no power of two"),
    "alignment-2^31": (gguf([*PAIRS, u32("general.alignment", 2**31)]), "no power of two"),
    "alignment-text": (
        gguf([*PAIRS, pair("general.alignment", STRING, text("32"))]),
        "general.alignment '32'",
    ),
    "dims-0": (gguf(infos=[info("token_embd.weight", [])]), "0 dimensions, accepted: 1 to 4"),
    "dims-5": (gguf(infos=[info("t", [1] * 5)]), "5 dimensions, accepted"),
    "dims-zero-size": (gguf(infos=[info("t", [0, 4])]), "no positive multiple"),
    "dims-2^63": (gguf(infos=[info("t", [2**63])]), "outside 0..2\\^48"),
    "dims-wrap": (gguf(infos=[info("t", [2**32 + 8, 2**32])]), "more than 2\\^48"),
    "type-unknown": (gguf(infos=[info("t", [8, 4], 9999)]), "ggml type 9999 is unknown"),
    "type-withdrawn": (gguf(infos=[info("t", [32], 4)]), "ggml type 4 is unknown"),
    "rows-no-block": (gguf(infos=[info("t", [8, 4], 2)]), "the 32 elements of a Q4_0 block"),
    "offset-odd": (gguf(infos=[info("t", [8, 2], 0, 4)]), "offset 4 is no multiple of 32"),
    "offset-past-end": (gguf(infos=[info("t", [8, 4], 0, 64)]), "cut off or damaged"),
    "offset-2^63": (gguf(infos=[info("t", [8, 4], 0, 2**63)]), "cut off or damaged"),
    "data-short": (gguf(data=127), "ends at byte"),
    "tensor-twice": (gguf(infos=[EMBEDDING, EMBEDDING]), "'token_embd.weight': occurs twice"),
    "tensors-overlap": (
        gguf(infos=[EMBEDDING, info("b", [8, 2], 0, 64)]),
        "'token_embd.weight' and 'b' overlap",
    ),
    "no-architecture": (gguf(PAIRS[1:]), "has no general.architecture"),
    "architecture-number": (
        changed("general.architecture", u32("general.architecture", 5)),
        "general.architecture is 5, needs str",
    ),
    "architecture-unknown": (
        changed("general.architecture", pair("general.architecture", STRING, text("mamba9"))),
        "'mamba9' is not supported.*llama",
    ),
    "no-embedding-length": (gguf([p for p in PAIRS if b"embedding" not in p]), "has no llama.emb"),
    "heads-0": (
        changed("llama.attention.head_count", u32("llama.attention.head_count", 0)),
        "head_count is 0",
    ),
    "heads-text": (
        changed(
            "llama.attention.head_count", pair("llama.attention.head_count", STRING, text("two"))
        ),
        "needs int",
    ),
    "no-embedding": (gguf(infos=[info("output.weight", [8, 4])]), "no tensor 'token_embd.weight'"),
    "eos-outside": (
        changed("tokenizer.ggml.eos_token_id", u32("tokenizer.ggml.eos_token_id", 4)),
        "eos_token_id 4 is outside the 4 tokens",
    ),
    "tokens-numbers": (
        changed(
            "tokenizer.ggml.tokens",
            pair("tokenizer.ggml.tokens", ARRAY, struct.pack("<IQI", U32, 1, 1)),
        ),
        "tokens is no list of strings",
    ),
    "template-number": (
        gguf([*PAIRS, u32("tokenizer.chat_template", 3)]),
        "chat_template is no string",
    ),
}

BAD_CONFIG: dict[str, tuple[dict[str, Any] | bytes, str]] = {
    "empty": (b"", "config.json: not valid JSON"),
    "list": (b"[]", "a list where a JSON object"),
    "nested": (b'{"a":' * 3000, "recursion limit"),
    "wide": (b'{"a":[' + b"[]," * 600_000, "values, at most"),
    "not-utf8": (b'{"a": "\xff"}', "not valid JSON"),
    "large": (b'{"a": "' + b"x" * 4_000_000 + b'"}', "larger than the 4000000 bytes"),
    "no-architecture": ({"architectures": None}, "architectures is None"),
    "architecture-text": ({"architectures": "Llama"}, "architectures is 'Llama'"),
    "hidden-2^40": ({"hidden_size": 2**40}, "hidden_size is 1099511627776"),
    "hidden-missing": ({"hidden_size": None}, "has no hidden_size"),
    "hidden-text": ({"hidden_size": "8"}, "hidden_size is '8'"),
    "hidden-bool": ({"hidden_size": True}, "hidden_size is True"),
    "heads-0": ({"num_attention_heads": 0}, "num_attention_heads is 0"),
    "heads-3": ({"num_attention_heads": 3}, "a divisor of hidden_size 8"),
    "kv-heads-odd": ({"num_attention_heads": 4, "num_key_value_heads": 3}, "a divisor of the 4"),
    "layers-negative": ({"num_hidden_layers": -1}, "num_hidden_layers is -1"),
    "layers-10^9": ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
    "vocab-negative": ({"vocab_size": -1}, "vocab_size is -1"),
    "vocab-float": ({"vocab_size": 1e3}, "vocab_size is 1000.0"),
    "head-dim-2^20": ({"head_dim": 2**20}, "head_dim is 1048576"),
    "positions-0": ({"max_position_embeddings": 0}, "max_position_embeddings is 0"),
    "eps-negative": ({"rms_norm_eps": -1e-6}, "rms_norm_eps is -1e-06"),
    "eps-infinite": (json.dumps(CONFIG | {"rms_norm_eps": float("inf")}).encode(), "eps is inf"),
    "eps-nan": (json.dumps(CONFIG | {"rms_norm_eps": float("nan")}).encode(), "eps is nan"),
    "dtype-list": ({"dtype": ["float32"]}, "dtype is \\['float32'\\]"),
    "rope-type": ({"rope_scaling": {"rope_type": "magic"}}, "rope_type is 'magic'"),
    "rope-number": ({"rope_scaling": 4}, "rope_scaling is 4, needs an object"),
    "rope-no-factor": ({"rope_scaling": {"rope_type": "linear"}}, "factor is None"),
    "rope-theta-0": ({"rope_theta": 0}, "rope_theta is 0"),
    "longrope-short": (
        {"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}},
        "short_factor is \\[1.0\\], needs 2 positive numbers",
    ),
    "window-negative": ({"sliding_window": -4}, "sliding_window is -4"),
    "layer-types-short": (
        {"sliding_window": 4, "layer_types": ["full_attention"]},
        "a list of 2 names",
    ),
    "layer-types-unknown": (
        {"sliding_window": 4, "layer_types": ["full_attention", "linear_attention"]},
        "layer_types is 'linear_attention'",
    ),
    "tie-text": ({"tie_word_embeddings": "yes"}, "needs true or false"),
    "eos-outside": ({"eos_token_id": [1, 10]}, "ids below vocab_size 10"),
    "bos-negative": ({"bos_token_id": -2}, "bos_token_id is -2"),
    "activation-number": ({"hidden_act": 3}, "hidden_act is 3, needs a string"),
    "quantization-text": ({"quantization_config": "gptq"}, "needs an object"),
    "experts-2^40": ({"num_experts": 2**40}, "num_experts is 1099511627776"),
    "softcap-text": ({"final_logit_softcapping": "30"}, "needs a number above 0"),
}


def refused(path: Path, named: str, fault: str, use: Callable[[], Any]) -> None:
    """`use` fails fast, naming file and fault, without memory beyond what the file justifies."""
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=fault or None) as caught:
            use()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert named in str(caught.value)
    assert len(str(caught.value)) < 600
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert peak < BUDGET_BYTES + size


def folder(tmp_path: Path, config: dict[str, Any] | None = None) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | (config or {})))
    return tmp_path


@pytest.mark.parametrize("case", BAD_SAFETENSORS)
def test_damaged_safetensors_are_refused(case: str, tmp_path: Path) -> None:
    content, fault = BAD_SAFETENSORS[case]
    file = folder(tmp_path) / "model.safetensors"
    file.write_bytes(content)
    refused(tmp_path, str(file), fault, lambda: open_checkpoint(tmp_path))


@pytest.mark.parametrize("case", BAD_GGUF)
def test_damaged_gguf_is_refused(case: str, tmp_path: Path) -> None:
    content, fault = BAD_GGUF[case]
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    refused(tmp_path, str(file), fault, lambda: open_checkpoint(file))


@pytest.mark.parametrize("case", BAD_CONFIG)
def test_absurd_configurations_are_refused(case: str, tmp_path: Path) -> None:
    content, fault = BAD_CONFIG[case]
    raw = content if isinstance(content, bytes) else json.dumps(CONFIG | content).encode()
    (tmp_path / "config.json").write_bytes(raw)
    refused(
        tmp_path,
        str(tmp_path / "config.json"),
        fault,
        lambda: read_model_config(open_checkpoint(tmp_path)),
    )


def test_every_truncation_of_a_gguf_is_refused(tmp_path: Path) -> None:
    whole, file = gguf(), tmp_path / "model.gguf"
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        refused(tmp_path, str(file), "", lambda: open_checkpoint(file))


def test_every_truncation_of_safetensors_is_refused(tmp_path: Path) -> None:
    whole, file = safetensors(GOOD), folder(tmp_path) / "model.safetensors"
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        refused(tmp_path, str(file), "", lambda: open_checkpoint(tmp_path))


def test_a_flipped_byte_is_refused_by_name_or_read_within_the_file(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    whole = gguf()
    for place in range(len(whole) - 128):
        for bits in (0xFF, 0x80, 0x01):
            raw = bytearray(whole)
            raw[place] ^= bits
            file.write_bytes(raw)
            try:
                found = open_checkpoint(file)
                read_model_config(found)
            except ModelError as error:
                assert str(file) in str(error)
            else:
                ends = [t.offset + t.num_bytes for t in found.tensors.values()]
                assert max(ends) <= len(raw)


@pytest.mark.parametrize("suffix", ["bin", "pt", "pth", "ckpt"])
def test_pickled_weights_are_refused_without_being_read(suffix: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    code = f"cposix\nsystem\n(S'touch {marker}'\ntR.".encode()
    weights = folder(tmp_path) / f"pytorch_model.{suffix}"
    weights.write_bytes(code)
    for path in (tmp_path, weights):
        with pytest.raises(ModelError, match=f"pytorch_model.{suffix}.*pickle.*safetensors"):
            open_checkpoint(path)
    assert not marker.exists()


@pytest.mark.case("remote-code")
def test_code_in_a_model_folder_is_never_imported(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    auto = {"AutoModelForCausalLM": "modeling.Own", "AutoConfig": "modeling.OwnConfig"}
    (folder(tmp_path, {"auto_map": auto}) / "modeling.py").write_text(f"open({str(marker)!r}, 'w')")
    read_model_config(open_checkpoint(tmp_path))
    assert not marker.exists()


def test_a_folder_with_a_config_alone_has_no_weights(tmp_path: Path) -> None:
    found = open_checkpoint(folder(tmp_path))
    assert found.format == "none" and not found.tensors


def test_a_missing_path_and_a_folder_without_model_say_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        open_checkpoint(tmp_path / "absent")
    with pytest.raises(ModelError, match="holds neither config.json nor a .gguf"):
        open_checkpoint(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ModelError, match="neither a folder in Hugging Face layout"):
        open_checkpoint(tmp_path / "notes.txt")


def sharded(tmp_path: Path, weight_map: object) -> Path:
    root = folder(tmp_path)
    for which in (1, 2):
        file = root / f"model-0000{which}-of-00002.safetensors"
        file.write_bytes(safetensors({f"t{which}": tensor([2, 2], 0, 16)}))
    if weight_map is not None:
        index = root / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))
    return root


FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.mark.parametrize("weight_map", [{"t1": FIRST, "t2": SECOND}, None])
def test_shards_are_one_checkpoint_with_and_without_an_index(
    weight_map: object, tmp_path: Path
) -> None:
    found = open_checkpoint(sharded(tmp_path, weight_map))
    assert {name: t.file.name for name, t in found.tensors.items()} == {"t1": FIRST, "t2": SECOND}


@pytest.mark.parametrize(
    ("weight_map", "fault"),
    [
        ({"t1": FIRST, "t3": SECOND}, "the index says tensor 't3' is here"),
        ({"t1": SECOND, "t2": FIRST}, "the index says tensor 't1' is here"),
        ({"t1": FIRST, "t2": "gone.safetensors"}, "gone.safetensors: is missing"),
        ({"t1": "../outside.safetensors"}, "no name of a safetensors file in this folder"),
        ({"t1": "/etc/passwd"}, "no name of a safetensors file"),
        ({"t1": 4}, "is said to be in 4"),
        ({}, "has no weight_map"),
        ([], "has no weight_map"),
    ],
)
def test_a_lying_index_is_refused(weight_map: object, fault: str, tmp_path: Path) -> None:
    root = sharded(tmp_path, weight_map)
    refused(root, str(root), fault, lambda: open_checkpoint(root))


def test_an_incomplete_series_of_shards_names_the_missing_one(tmp_path: Path) -> None:
    root = sharded(tmp_path, None)
    (root / SECOND).unlink()
    with pytest.raises(ModelError, match=f"shard {SECOND} is missing"):
        open_checkpoint(root)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    root = sharded(tmp_path, None)
    (root / SECOND).write_bytes((root / FIRST).read_bytes())
    with pytest.raises(ModelError, match="tensor 't1' is in .* too"):
        open_checkpoint(root)


def test_gguf_metadata_reads_as_a_hugging_face_configuration(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(gguf())
    found = open_checkpoint(tmp_path)
    config = read_model_config(found)
    assert found.format == "gguf" and found.root == tmp_path
    assert found.tensors["token_embd.weight"].shape == (4, 8)
    assert found.metadata["tokenizer.ggml.tokens"] == ["a", "b", "c", "<|im_end|>"]
    assert found.tokenizer_config["eos_token"] == "c"
    assert (config.hidden_size, config.num_kv_heads, config.head_dim) == (8, 1, 4)
    assert (config.vocab_size, config.tie_embeddings) == (4, True)
    # The control token that ends a turn ends an answer, though the file does not name it so.
    assert config.eos_ids == (2, 3)


def test_two_ggufs_in_a_folder_must_be_told_apart(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(gguf())
    with pytest.raises(ModelError, match=r"2 GGUF files \(a.gguf, b.gguf\): name one"):
        open_checkpoint(tmp_path)
    assert open_checkpoint(tmp_path / "b.gguf").format == "gguf"


def test_parts_of_a_gguf_are_one_checkpoint(tmp_path: Path) -> None:
    first, second = tmp_path / "m-00001-of-00002.gguf", tmp_path / "m-00002-of-00002.gguf"
    first.write_bytes(gguf())
    with pytest.raises(ModelError, match=r"m-00002-of-00002.gguf: is missing"):
        open_checkpoint(tmp_path)
    second.write_bytes(gguf([], [info("output_norm.weight", [8])], data=32))
    found = open_checkpoint(tmp_path)
    assert {name: t.file for name, t in found.tensors.items()} == {
        "token_embd.weight": first,
        "output_norm.weight": second,
    }


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"chat_template.jinja": "J", "tokenizer_config.json": '{"chat_template": "T"}'}, "J"),
        ({"tokenizer_config.json": '{"chat_template": "T"}'}, "T"),
        ({"chat_template.json": '{"chat_template": "C"}'}, "C"),
        (
            {
                "tokenizer_config.json": '{"chat_template": [{"name": "tool_use", "template": "U"},'
                '{"name": "default", "template": "D"}]}'
            },
            "D",
        ),
        ({}, None),
    ],
)
def test_the_chat_template_comes_from_the_most_specific_file(
    files: dict[str, str], expected: str | None, tmp_path: Path
) -> None:
    root = folder(tmp_path)
    for name, content in files.items():
        (root / name).write_text(content)
    assert open_checkpoint(root).chat_template == expected
