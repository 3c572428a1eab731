"""The record of a model's files, and reading a JSON or text file within bounds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jiter

from inferplane.errors import ModelError

__all__ = ["Checkpoint", "TensorInfo", "check_layout", "parse_object", "read_object", "read_text"]

MAX_ELEMENTS = 2**48
MAX_DIMENSIONS = 8


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor in a file."""

    name: str
    """As in the file."""
    dtype: str
    """The safetensors or ggml type name."""
    shape: tuple[int, ...]
    """In torch order: the last dimension is contiguous."""
    file: Path
    offset: int
    """Bytes from the start of the file."""
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything a model's files say, without their weights."""

    root: Path
    """The folder, or the GGUF file."""
    format: Literal["safetensors", "gguf", "none"]
    """none: config.json alone, for dummy weights."""
    config: Mapping[str, object]
    """config.json; for GGUF the same Hugging Face keys, made from its metadata."""
    generation_config: Mapping[str, object]
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, object]
    """GGUF key-values, arrays as lists; empty otherwise."""
    tokenizer_file: Path | None
    tokenizer_config: Mapping[str, object]
    chat_template: str | None


def read_text(path: Path, max_bytes: int) -> str:
    """The UTF-8 text of a regular file. Raises ModelError."""
    return _decode(path, _read(path, max_bytes))


def read_object(path: Path, max_bytes: int) -> dict[str, object]:
    """The JSON object in a file. Raises ModelError naming the file and what is wrong."""
    return parse_object(_read(path, max_bytes), str(path))


def parse_object(data: bytes, where: str, max_items: int = 500_000) -> dict[str, object]:
    """The JSON object in `data`, of at most about `max_items` values, objects and lists."""
    # A value costs up to about 90 bytes decoded, though two in the file: count before decoding.
    items = sum(data.count(mark) for mark in (b"[", b"{", b","))
    if items > max_items:
        raise ModelError(f"{where}: about {items} values, at most {max_items} are accepted")
    try:
        found = jiter.from_json(data, catch_duplicate_keys=True)
    except ValueError as error:
        raise ModelError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise ModelError(f"{where}: holds {_kind(found)} where a JSON object is needed")
    return found


def check_layout(where: str, shape: tuple[int, ...]) -> int:
    """The number of elements of a tensor of this shape. Raises ModelError when it is absurd."""
    if len(shape) > MAX_DIMENSIONS:
        raise ModelError(f"{where}: {len(shape)} dimensions, at most {MAX_DIMENSIONS} are accepted")
    count = 1
    for size in shape:
        if not 0 <= size <= MAX_ELEMENTS:
            raise ModelError(f"{where}: shape {list(shape)} has a dimension outside 0..2^48")
        count *= size
    if count > MAX_ELEMENTS:
        raise ModelError(f"{where}: shape {list(shape)} has more than 2^48 elements")
    return count


def _read(path: Path, max_bytes: int) -> bytes:
    if not path.is_file():
        raise ModelError(f"{path}: is missing or not a regular file")
    try:
        with path.open("rb") as file:
            # read(n) allocates n bytes at once: ask for no more than there is
            data = file.read(min(os.fstat(file.fileno()).st_size, max_bytes) + 1)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > max_bytes:
        raise ModelError(f"{path}: is larger than the {max_bytes} bytes accepted for such a file")
    return data


def _decode(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: not UTF-8 text at byte {error.start}") from None


def _kind(found: object) -> str:
    return {list: "a list", str: "a string", type(None): "null"}.get(type(found), "a number")
