"""Numpy arrays inside msgpack messages: dtype, shape and bytes, never pickle."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

__all__ = ["decoder", "encoder"]

_ARRAY = 1
_HEAD = struct.Struct("<cB")


def encoder() -> Callable[[object], bytes]:
    """Messages as msgpack; an array is an extension. TypeError for what else is no plain data."""
    return msgspec.msgpack.Encoder(enc_hook=_from_array).encode


def decoder(kind: Any) -> Callable[[bytearray], Any]:
    """The inverse, for one side's union of messages. Arrays are views of the input."""
    return msgspec.msgpack.Decoder(kind, ext_hook=_to_array, dec_hook=_as_is).decode


def _from_array(value: object) -> msgspec.msgpack.Ext:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{type(value).__name__} does not cross to another process")
    head = _HEAD.pack(value.dtype.char.encode(), value.ndim)
    shape = struct.pack(f"<{value.ndim}q", *value.shape)
    return msgspec.msgpack.Ext(_ARRAY, head + shape + value.tobytes())


def _to_array(code: int, data: memoryview) -> object:
    kind, ndim = _HEAD.unpack_from(data)
    shape = struct.unpack_from(f"<{ndim}q", data, _HEAD.size)
    start = _HEAD.size + 8 * ndim
    return np.frombuffer(data[start:], kind.decode()).reshape(shape)


def _as_is(kind: type, value: object) -> object:
    return value
