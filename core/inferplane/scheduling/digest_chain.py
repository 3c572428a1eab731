"""What a block holds, as a SHA-256 chain over tokens and everything else that decides its KV."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from struct import Struct
from typing import TypeAlias

from inferplane.scheduling.sequence import Sequence

__all__ = ["Digest", "DigestChain", "extra_keys", "sha256"]

Digest: TypeAlias = Callable[[bytes], bytes]


def sha256(data: bytes) -> bytes:
    """The digest in use; tests pass a weaker one to provoke collisions."""
    return hashlib.sha256(data).digest()


def extra_keys(sequence: Sequence, start: int, end: int) -> tuple[tuple[str, int | bytes], ...]:
    """What besides tokens decides the KV of positions [start, end).

    The adapter; each media item that touches them, with its offset from `start` (negative when it
    began earlier); the cache domain, in the first block only, since the chain carries it on.
    """
    keys: list[tuple[str, int | bytes]] = []
    if sequence.adapter:
        keys.append((sequence.adapter, -1))
    for item in sequence.items:
        if item.offset < end and item.offset + item.length > start:
            keys.append((item.content_id, item.offset - start))
    if start == 0 and sequence.request.cache_domain:
        keys.append(("", sequence.request.cache_domain))
    return tuple(keys)


def _encode(keys: tuple[tuple[str, int | bytes], ...]) -> bytes:
    """Keys as bytes; every part carries its length, so that no two lists look alike."""
    parts = []
    for name, value in keys:
        text = name.encode()
        data = value if isinstance(value, bytes) else b"%d" % value
        kind = b"b" if isinstance(value, bytes) else b"i"
        parts.append(b"%s%d:%s%d:%s" % (kind, len(text), text, len(data), data))
    return b"".join(parts)


class DigestChain:
    """Digest of block i = SHA-256(digest of block i - 1 or root, its tokens, its extra keys)."""

    def __init__(self, root: bytes, block_size: int, digest: Digest, paranoid: bool) -> None:
        self._root = root
        self._block_size = block_size
        self._digest = digest
        self._pack = Struct(f"<{block_size}i").pack
        self._contents: dict[tuple[int, tuple[int, ...], bytes], int] | None = (
            {} if paranoid else None
        )

    def extend(self, sequence: Sequence, num_blocks: int) -> list[bytes]:
        """The sequence's digests, at least `num_blocks` of them; its tokens must reach so far."""
        digests = sequence.digests
        done = len(digests)
        if done >= num_blocks:
            return digests
        size, pack, digest = self._block_size, self._pack, self._digest
        token_ids = sequence.token_ids
        special = bool(sequence.items or sequence.adapter)
        parent = digests[-1] if digests else self._root
        if done and num_blocks == done + 1 and not special and self._contents is None:
            start = done * size  # a decode step filled one more block: the usual case
            digests.append(digest(parent + pack(*token_ids[start : start + size])))
            return digests
        for start in range(done * size, num_blocks * size, size):
            data = parent + pack(*token_ids[start : start + size])
            if special or not start:
                data += _encode(extra_keys(sequence, start, start + size))
            parent = digest(data)
            digests.append(parent)
        if self._contents is not None:
            self._identify(sequence, num_blocks)
        return digests

    def part(self, sequence: Sequence, index: int, num_tokens: int) -> bytes:
        """Digest of the first tokens of block `index`; it never equals that of a whole block."""
        start = index * self._block_size
        end = start + num_tokens
        parent = self._root
        if index:
            parent = self.extend(sequence, index)[index - 1]
        tokens = Struct(f"<{num_tokens}i").pack(*sequence.token_ids[start:end])
        return self._digest(b"part" + parent + tokens + _encode(extra_keys(sequence, start, end)))

    def _identify(self, sequence: Sequence, num_blocks: int) -> None:
        """Number each distinct chain by its true content, to check hits against."""
        assert self._contents is not None
        size = self._block_size
        for i in range(len(sequence.contents), num_blocks):
            parent = sequence.contents[-1] if sequence.contents else -1
            tokens = tuple(sequence.token_ids[i * size : (i + 1) * size])
            keys = _encode(extra_keys(sequence, i * size, (i + 1) * size))
            number = self._contents.setdefault((parent, tokens, keys), len(self._contents))
            sequence.contents.append(number)
