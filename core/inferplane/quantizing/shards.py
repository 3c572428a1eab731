"""Write tensors one after the other to safetensors files of bounded size."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType

from safetensors.torch import save_file
from torch import Tensor

__all__ = ["ShardWriter"]

_SHARD_BYTES = 2 << 30


class ShardWriter:
    """Holds at most one file's tensors in memory; leaving the context finishes the index."""

    def __init__(self, folder: Path, shard_bytes: int = _SHARD_BYTES) -> None:
        self._folder = folder
        self._most = shard_bytes
        self._held: dict[str, Tensor] = {}
        self._held_bytes = 0
        self._files: list[list[str]] = []
        self.num_bytes = 0
        """Of all tensors so far."""

    def add(self, name: str, tensor: Tensor) -> None:
        """Take one tensor; a full file is written at once."""
        size = tensor.numel() * tensor.element_size()
        if self._held and self._held_bytes + size > self._most:
            self._write()
        self._held[name] = tensor.contiguous()
        self._held_bytes += size
        self.num_bytes += size

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._finish()

    def _write(self) -> None:
        save_file(self._held, self._part(len(self._files)), metadata={"format": "pt"})
        self._files.append(list(self._held))
        self._held, self._held_bytes = {}, 0

    def _finish(self) -> None:
        """Files get their final names once their number is known."""
        if self._held:
            self._write()
        if len(self._files) == 1:
            self._part(0).rename(self._folder / "model.safetensors")
            return
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self._files):
            final = f"model-{number + 1:05d}-of-{len(self._files):05d}.safetensors"
            self._part(number).rename(self._folder / final)
            weight_map |= dict.fromkeys(names, final)
        index = {"metadata": {"total_size": self.num_bytes}, "weight_map": weight_map}
        (self._folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number:05d}"
