"""The header of a GGUF file, checked against the file (ggml/docs/gguf.md, versions 2 and 3)."""

from __future__ import annotations

import mmap
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np

from inferplane.checkpoint.files import TensorInfo, check_layout
from inferplane.errors import ModelError

__all__ = ["GGML_BLOCKS", "read_gguf_header"]

MAX_TENSORS = 200_000
MAX_PAIRS = 65_536
MAX_NAME_BYTES = 65_535
MAX_STRINGS = 2_000_000
"""Elements of one array of strings."""
MAX_NUMBERS = 16_000_000
MAX_ALIGNMENT = 65_536

GGML_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2), 28: ("F64", 1, 8),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8),
    2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 29: ("IQ1_M", 256, 56),
    34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36),
}  # fmt: skip
"""ggml type number -> name, elements in a block, bytes of a block."""

GGML_BLOCKS = {name: (elements, size) for name, elements, size in GGML_TYPES.values()}
"""ggml type name -> elements in a block, bytes of a block."""

_NUMBERS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_BOOL, _STRING, _ARRAY = 7, 8, 9


def read_gguf_header(path: Path) -> tuple[dict[str, object], dict[str, TensorInfo]]:
    """(key-values, tensors) of one file. Raises ModelError naming file, key or tensor and fault."""
    if not path.is_file():
        raise ModelError(f"{path}: is missing or not a regular file")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Header(path, data).read()
    except (OSError, ValueError) as error:  # mmap refuses an empty file with ValueError
        raise ModelError(f"{path}: cannot be read as GGUF: {error}") from None


class _Header:
    """A cursor that never passes the end of the file."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.size = len(data)
        self.at = 0

    def read(self) -> tuple[dict[str, object], dict[str, TensorInfo]]:
        if self.take(4, "the magic number") != b"GGUF":
            raise ModelError(f"{self.path}: does not begin with GGUF: it is no GGUF file")
        version = self.number("<I", "the version")
        if version not in (2, 3):
            swapped = " (big-endian files are not accepted)" if version >= 65_536 else ""
            raise ModelError(f"{self.path}: GGUF version {version}, accepted: 2 and 3{swapped}")
        num_tensors = self.count("tensors", smallest=32, most=MAX_TENSORS)
        num_pairs = self.count("key-values", smallest=13, most=MAX_PAIRS)
        pairs: dict[str, object] = {}
        for _ in range(num_pairs):
            key = self.text("a key", MAX_NAME_BYTES)
            if key in pairs:
                raise ModelError(f"{self.path}: key {key!r} occurs twice")
            pairs[key] = self.value(key, self.number("<I", f"the type of {key!r}"))
        return pairs, self.tensors(num_tensors, self.alignment(pairs))

    def tensors(self, num_tensors: int, alignment: int) -> dict[str, TensorInfo]:
        entries = [self.tensor_entry() for _ in range(num_tensors)]
        start = -(-self.at // alignment) * alignment
        found: dict[str, TensorInfo] = {}
        for name, dtype, shape, offset, num_bytes in entries:
            where = f"{self.path}: tensor {name!r}"
            if name in found:
                raise ModelError(f"{where}: occurs twice")
            if offset % alignment:
                raise ModelError(f"{where}: offset {offset} is no multiple of {alignment}")
            if start + offset + num_bytes > self.size:
                raise ModelError(
                    f"{where}: {list(shape)} of {dtype} ends at byte {start + offset + num_bytes}, "
                    f"the file has {self.size}: it is cut off or damaged"
                )
            found[name] = TensorInfo(name, dtype, shape, self.path, start + offset, num_bytes)
        for before, after in pairwise(sorted(found.values(), key=lambda t: t.offset)):
            if before.offset + before.num_bytes > after.offset:
                raise ModelError(f"{self.path}: tensors {before.name!r} and {after.name!r} overlap")
        return found

    def tensor_entry(self) -> tuple[str, str, tuple[int, ...], int, int]:
        name = self.text("a tensor name", MAX_NAME_BYTES)
        where = f"{self.path}: tensor {name!r}"
        num_dims = self.number("<I", f"the dimensions of {name!r}")
        if not 1 <= num_dims <= 4:
            raise ModelError(f"{where}: {num_dims} dimensions, accepted: 1 to 4")
        shape = tuple(self.number("<Q", f"the dimensions of {name!r}") for _ in range(num_dims))[
            ::-1
        ]
        kind = self.number("<I", f"the type of {name!r}")
        offset = self.number("<Q", f"the offset of {name!r}")
        if kind not in GGML_TYPES:
            raise ModelError(f"{where}: ggml type {kind} is unknown or was withdrawn")
        dtype, block, block_bytes = GGML_TYPES[kind]
        elements = check_layout(where, shape)
        if elements == 0 or shape[-1] % block:
            raise ModelError(
                f"{where}: rows of shape {list(shape)} are no positive multiple of the "
                f"{block} elements of a {dtype} block"
            )
        return name, dtype, shape, offset, elements // block * block_bytes

    def alignment(self, pairs: dict[str, object]) -> int:
        value = pairs.get("general.alignment", 32)
        if type(value) is not int or not 0 < value <= MAX_ALIGNMENT or value & (value - 1):
            raise ModelError(
                f"{self.path}: general.alignment {value!r} is no power of two up to {MAX_ALIGNMENT}"
            )
        return value

    def value(self, key: str, kind: int) -> object:
        where = f"the value of {key!r}"
        if kind in _NUMBERS:
            found: object = struct.unpack(_NUMBERS[kind], self.take_number(kind, where))[0]
            return found
        if kind == _BOOL:
            return self.boolean(key, self.take(1, where)[0])
        if kind == _STRING:
            return self.text(where, self.size)
        if kind == _ARRAY:
            return self.array(key)
        raise ModelError(f"{self.path}: key {key!r} has the unknown value type {kind}")

    def array(self, key: str) -> list[object]:
        what = f"elements of {key!r}"
        kind = self.number("<I", what)
        if kind == _STRING:
            count = self.count(what, smallest=8, most=MAX_STRINGS)
            return self.texts(key, count)
        if kind == _BOOL:
            flags = self.take(self.count(what, smallest=1, most=MAX_NUMBERS), what)
            return [self.boolean(key, flag) for flag in flags]
        if kind in _NUMBERS:
            code = _NUMBERS[kind]
            count = self.count(what, smallest=struct.calcsize(code), most=MAX_NUMBERS)
            raw = self.take(count * struct.calcsize(code), what)
            numbers: list[object] = np.frombuffer(raw, dtype=np.dtype(code)).tolist()
            return numbers
        nested = "nested arrays are not accepted" if kind == _ARRAY else f"unknown type {kind}"
        raise ModelError(f"{self.path}: key {key!r}: {nested}")

    def texts(self, key: str, count: int) -> list[object]:
        """`count` strings, in one tight loop: a vocabulary has hundreds of thousands."""
        data, at, size = self.data, self.at, self.size
        unpack = struct.Struct("<Q").unpack_from
        found: list[object] = []
        try:
            for _ in range(count):
                (length,) = unpack(data, at)
                at += 8 + length
                if at > size:
                    raise struct.error
                found.append(data[at - length : at].decode("utf-8"))
        except (struct.error, UnicodeDecodeError) as error:
            fault = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else "is cut off"
            raise ModelError(f"{self.path}: string {len(found)} of {key!r} {fault}") from None
        self.at = at
        return found

    def boolean(self, key: str, flag: int) -> bool:
        if flag > 1:
            raise ModelError(f"{self.path}: key {key!r} has the boolean {flag}, accepted: 0 and 1")
        return flag == 1

    def text(self, what: str, most: int) -> str:
        length = self.number("<Q", f"the length of {what}")
        if length > most:
            raise ModelError(
                f"{self.path}: {what} claims {length} bytes, at most {most} are accepted"
            )
        try:
            return self.take(length, what).decode("utf-8")
        except UnicodeDecodeError:
            raise ModelError(f"{self.path}: {what} is not UTF-8") from None

    def count(self, what: str, smallest: int, most: int) -> int:
        """A count that the rest of the file can hold, each element having `smallest` bytes."""
        count = self.number("<Q", f"the number of {what}")
        if count > min(most, (self.size - self.at) // smallest):
            raise ModelError(
                f"{self.path}: claims {count} {what}, the {self.size - self.at} bytes left hold "
                f"at most {(self.size - self.at) // smallest} (limit {most})"
            )
        return count

    def take_number(self, kind: int, what: str) -> bytes:
        return self.take(struct.calcsize(_NUMBERS[kind]), what)

    def number(self, code: str, what: str) -> int:
        found: int = struct.unpack(code, self.take(struct.calcsize(code), what))[0]
        return found

    def take(self, num_bytes: int, what: str) -> bytes:
        if num_bytes > self.size - self.at:
            raise ModelError(f"{self.path}: ends at byte {self.size}, inside {what}")
        self.at += num_bytes
        return self.data[self.at - num_bytes : self.at]
