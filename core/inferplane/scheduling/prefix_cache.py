"""Which full block holds which prefix: a SHA-256 chain, and the table from its digests to blocks.

Knows nothing of reference counts or free lists.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from struct import Struct
from typing import TypeAlias

from inferplane.scheduling.sequence import Sequence

__all__ = ["Digest", "DigestChain", "PrefixIndex", "extra_keys", "sha256"]

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
        for start in range(done * size, num_blocks * size, size):
            data = parent + pack(*token_ids[start : start + size])
            if special or not start:
                data += _encode(extra_keys(sequence, start, start + size))
            parent = digest(data)
            digests.append(parent)
        if self._contents is not None:
            self._identify(sequence, num_blocks)
        return digests

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


class PrefixIndex:
    """From (digest, group) to the blocks with that content; several copies are allowed.

    A block is *pending* from the plan that will fill it until a sampled row proves it finite. A
    pending block may be adopted by later plans when `adopt` says so, by its own plan only when the
    back-end writes all K/V of a step before it reads any (`same_step`).
    """

    def __init__(self, num_blocks: int, adopt: bool, same_step: bool) -> None:
        self.adopt = adopt
        self.same_step = same_step
        self.keys: list[bytes | None] = [None] * num_blocks
        """For each block (digest, group), None = it cannot be looked up."""
        self.contents: list[int] = [-1] * num_blocks
        """True content for the check of hits; -1 = not recorded."""
        self.pending: dict[int, tuple[Sequence, int]] = {}
        """Block -> its producer and the step that fills it."""
        self.collisions = 0
        """Hits refused because the content differed under an equal digest."""
        self._blocks: dict[bytes, int | dict[int, None]] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    def add(self, block: int, key: bytes, content: int = -1) -> None:
        """Let `key` resolve to the block, or to one more block."""
        self.keys[block] = key
        self.contents[block] = content
        found = self._blocks.get(key)
        if found is None:
            self._blocks[key] = block
        elif isinstance(found, int):
            self._blocks[key] = {found: None, block: None}
        else:
            found[block] = None

    def remove(self, block: int) -> bytes | None:
        """Forget the block; returns its key if no other block has it."""
        key = self.keys[block]
        self.pending.pop(block, None)
        if key is None:
            return None
        self.keys[block] = None
        found = self._blocks[key]
        if isinstance(found, int):
            del self._blocks[key]
            return key
        del found[block]
        if len(found) == 1:
            self._blocks[key] = next(iter(found))
        return None

    def clear(self) -> None:
        """Forget every block."""
        self.keys = [None] * len(self.keys)
        self.pending.clear()
        self._blocks.clear()

    def find(self, key: bytes, step: int, adopts: bool = True, content: int = -1) -> int:
        """The canonical block a plan for `step` may use, 0 = none; proven ones come first."""
        found = self._blocks.get(key)
        if found is None:
            return 0
        if content < 0 and isinstance(found, int) and found not in self.pending:
            return found
        adoptable = 0
        for block in self._candidates(key):
            if content >= 0 and self.contents[block] != content:
                self.collisions += 1
                continue
            pending = self.pending.get(block)
            if pending is None:
                return block
            filled = pending[1] < step or (self.same_step and pending[1] == step)
            if self.adopt and adopts and filled and not adoptable:
                adoptable = block
        return adoptable

    def copies(self, key: bytes) -> list[int]:
        """All blocks with this content, oldest first."""
        return list(self._candidates(key))

    def _candidates(self, key: bytes) -> Iterator[int]:
        found = self._blocks.get(key)
        if isinstance(found, int):
            yield found
        elif found is not None:
            yield from found
