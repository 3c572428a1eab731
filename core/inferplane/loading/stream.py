"""A checkpoint's weights, one tensor after the other, under Hugging Face's names."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from inferplane.checkpoint import Checkpoint
from inferplane.errors import ModelError
from inferplane.loading.gguf import hugging_face_names, iterate_gguf
from inferplane.loading.safetensors import iterate_safetensors

__all__ = ["WeightStream", "iterate_weights"]


class WeightStream:
    """Iterates once over (name, tensor) and knows which file each tensor comes from."""

    def __init__(
        self, checkpoint: Checkpoint, files: dict[str, str], tensors: Iterator[tuple[str, Tensor]]
    ) -> None:
        self.source = str(checkpoint.root)
        """The model's folder or file."""
        self._files = files
        self._tensors = tensors

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return self._tensors

    def __next__(self) -> tuple[str, Tensor]:
        return next(self._tensors)

    def __len__(self) -> int:
        """Tensors in all, read or not: for a progress bar."""
        return len(self._files)

    def origin(self, name: str) -> str:
        """The file of a tensor, for messages."""
        return self._files.get(name, self.source)


def iterate_weights(
    checkpoint: Checkpoint, dtype: torch.dtype = torch.float32, keep: Collection[str] = ()
) -> WeightStream:
    """Every tensor of the checkpoint; GGUF blocks come dequantised, in `dtype`, but for the names
    in `keep` (`WeightTable.packed`), which stay u8[rows, bytes of a row].

    Tensors of safetensors files are views of the file: copy what must outlive the iteration.
    Raises ModelError when there are no weights, or, while iterating, when they cannot be read.
    """
    if checkpoint.format == "none":
        raise ModelError(
            f"{checkpoint.root}: holds no weights (no *.safetensors, no .gguf); "
            "load_format dummy makes some up"
        )
    if checkpoint.format == "safetensors":
        files = {name: str(tensor.file) for name, tensor in checkpoint.tensors.items()}
        return WeightStream(checkpoint, files, iterate_safetensors(checkpoint.tensors))
    names = hugging_face_names(checkpoint)
    files = {names[name]: str(tensor.file) for name, tensor in checkpoint.tensors.items()}
    return WeightStream(checkpoint, files, iterate_gguf(checkpoint, dtype, keep))
