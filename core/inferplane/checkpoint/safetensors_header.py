"""The header of a safetensors file, checked against the file (format: huggingface/safetensors)."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from inferplane.checkpoint.files import TensorInfo, check_layout, parse_object
from inferplane.errors import ModelError

__all__ = ["read_safetensors_header"]

MAX_HEADER_BYTES = 100_000_000
MAX_TENSORS = 200_000

_DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64,
}  # fmt: skip


def read_safetensors_header(path: Path) -> dict[str, TensorInfo]:
    """Every tensor of one file. Raises ModelError naming file, tensor and fault."""
    data, start, size = _header_bytes(path)
    header = parse_object(data, f"{path}: header", max_items=8 * MAX_TENSORS)
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise ModelError(f"{path}: {len(header)} tensors, at most {MAX_TENSORS} are accepted")
    tensors = {name: _tensor(path, name, entry, start) for name, entry in header.items()}
    _check_cover(path, sorted(tensors.values(), key=lambda t: (t.offset, t.num_bytes)), start, size)
    return tensors


def _header_bytes(path: Path) -> tuple[bytes, int, int]:
    """The JSON header, where the data begins, and the size of the file."""
    if not path.is_file():
        raise ModelError(f"{path}: is missing or not a regular file")
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                raise ModelError(
                    f"{path}: claims a header of {length} bytes, the file has {size} bytes "
                    f"(at most {MAX_HEADER_BYTES} are accepted): it is cut off or no safetensors"
                )
            return file.read(length), 8 + length, size
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None


def _tensor(path: Path, name: str, entry: object, start: int) -> TensorInfo:
    where = f"{path}: tensor {name!r}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ModelError(f"{where}: its header entry needs exactly dtype, shape and data_offsets")
    dtype = entry["dtype"]
    if not isinstance(dtype, str) or dtype not in _DTYPE_BITS:
        known = ", ".join(_DTYPE_BITS)
        raise ModelError(f"{where}: dtype {dtype!r} is unknown (accepted: {known})")
    shape = _integers(where, "shape", entry["shape"])
    offsets = _integers(where, "data_offsets", entry["data_offsets"])
    if len(offsets) != 2 or not 0 <= offsets[0] <= offsets[1]:
        raise ModelError(f"{where}: data_offsets {list(offsets)} are not a range")
    needed = -(-check_layout(where, shape) * _DTYPE_BITS[dtype] // 8)
    begin, end = offsets
    if end - begin != needed:
        raise ModelError(
            f"{where}: shape {list(shape)} of {dtype} needs {needed} bytes, "
            f"data_offsets give {end - begin}"
        )
    return TensorInfo(name, dtype, shape, path, start + begin, needed)


def _integers(where: str, key: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise ModelError(f"{where}: {key} is not a list of integers")
    return tuple(value)


def _check_cover(path: Path, tensors: list[TensorInfo], start: int, size: int) -> None:
    """The data must be the tensors' bytes, each once, and nothing else."""
    for before, after in pairwise(tensors):
        if before.offset + before.num_bytes != after.offset:
            raise ModelError(
                f"{path}: tensors {before.name!r} and {after.name!r} overlap or leave a gap"
            )
    begin = tensors[0].offset if tensors else start
    end = tensors[-1].offset + tensors[-1].num_bytes if tensors else start
    if begin != start or end != size:
        named = f" (last: {tensors[-1].name!r})" if tensors else ""
        raise ModelError(
            f"{path}: its tensors{named} take bytes {begin}..{end}, its data is {start}..{size}: "
            "the file is cut off or damaged"
        )
