"""From tokens to the bytes they stand for, per kind of decoder; knows nothing of requests."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Spelling", "byte_alphabet", "spelling_of"]

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")


@dataclass(frozen=True, slots=True)
class Spelling:
    """How one vocabulary writes bytes: the bytes of a text are those of its tokens, joined."""

    bytes_of: Callable[[str], bytes]
    drops_first_space: bool = False
    """A text's first space is only a mark of its beginning."""


def spelling_of(decoder: Mapping[str, object] | None) -> Spelling | None:
    """The spelling a tokenizer's decoder implies; None if its text is not a sum of its tokens.

    `decoder` is the "decoder" object of a tokenizer.json.
    """
    if decoder is None:
        return None
    parts = _parts(decoder)
    kinds = [part["type"] for part in parts]
    if kinds == ["ByteLevel"]:
        return Spelling(_byte_level())
    spaces: list[tuple[str, str]] = []
    drops = False
    for kind, part in zip(kinds, parts, strict=True):
        if kind == "Replace":
            pattern = part.get("pattern")
            if not isinstance(pattern, Mapping) or "String" not in pattern:
                return None
            spaces.append((str(pattern["String"]), str(part["content"])))
        elif kind == "Metaspace":
            spaces.append((str(part["replacement"]), " "))
            drops = part.get("prepend_scheme") != "never"
        elif kind == "Strip":
            if part.get("content") != " " or part.get("stop") or "Fuse" not in kinds:
                return None
            drops = part.get("start") == 1
        elif kind not in ("ByteFallback", "Fuse"):
            return None
    return Spelling(_with_byte_tokens(tuple(spaces), "ByteFallback" in kinds), drops)


def _parts(decoder: Mapping[str, object]) -> Sequence[Mapping[str, object]]:
    inner = decoder.get("decoders")
    return inner if decoder["type"] == "Sequence" and isinstance(inner, list) else [decoder]


def _with_byte_tokens(
    spaces: tuple[tuple[str, str], ...], byte_tokens: bool
) -> Callable[[str], bytes]:
    def bytes_of(token: str) -> bytes:
        if byte_tokens and (found := _BYTE_TOKEN.match(token)):
            return bytes((int(found[1], 16),))
        for old, new in spaces:
            token = token.replace(old, new)
        return token.encode("utf-8", "replace")

    return bytes_of


def _byte_level() -> Callable[[str], bytes]:
    table = byte_alphabet()

    def bytes_of(token: str) -> bytes:
        try:
            return bytes([table[character] for character in token])
        except KeyError:  # an added token written in plain text
            return token.encode("utf-8", "replace")

    return bytes_of


def byte_alphabet() -> dict[str, int]:
    """Printable character -> byte, the alphabet of byte-level BPE (GPT-2's encoder.py)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + rank): byte for rank, byte in enumerate(others)})
    return table
