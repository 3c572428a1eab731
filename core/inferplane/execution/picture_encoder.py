"""Runs a model's encoder over the pictures of a step and keeps what it made for the next ones.

N placeholders of a picture, n of them in this step, D hidden size.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor

from inferplane.interfaces import Array, MediaRows, SeesPictures

__all__ = ["PictureEncoder"]

_logger = logging.getLogger(__name__)


class PictureEncoder:
    """Embeddings by content, the least lately used forgotten first.

    A picture that cannot be encoded, or not to N rows, becomes NaN: its request fails by itself and
    no other does.
    """

    def __init__(
        self,
        model: SeesPictures,
        device: str,
        dtype: torch.dtype,
        hidden_size: int,
        most_bytes: int = 64 << 20,
    ) -> None:
        """`most_bytes` is what is kept beyond the newest picture."""
        self.most_bytes = most_bytes
        self.encoded = 0
        """Pictures that went through the encoder."""
        self._model = model
        self._device = device
        self._dtype = dtype
        self._hidden_size = hidden_size
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._bytes = 0

    def place(self, media: tuple[MediaRows, ...]) -> tuple[Tensor, Tensor]:
        """(token rows i64[n], embeddings [n,D] that go there) of all pictures together."""
        rows = [torch.from_numpy(one.rows) for one in media]
        values = [
            self._embedding(one).index_select(0, self._on_device(one.picks).long()) for one in media
        ]
        return torch.cat(rows).to(self._device).long(), torch.cat(values)

    def rehearse(self) -> None:
        """Encode the picture that costs the most, so that its memory is taken once."""
        self._encode(self._model.largest_picture())

    def _embedding(self, one: MediaRows) -> Tensor:
        """[N,D]"""
        kept = self._kept.get(one.content_id)
        if kept is not None and len(kept) == one.count:
            self._kept.move_to_end(one.content_id)
            return kept
        wanted = (one.count, self._hidden_size)
        try:
            made = self._encode(one.arrays)
        except (RuntimeError, ValueError, TypeError, LookupError) as error:
            _logger.warning("picture %s cannot be encoded: %s", one.content_id[:12], error)
            return self._nothing(wanted)
        if tuple(made.shape) != wanted:
            _logger.warning(
                "picture %s: its embedding is %s, its prompt has room for %s",
                one.content_id[:12],
                list(made.shape),
                list(wanted),
            )
            return self._nothing(wanted)
        self._keep(one.content_id, made)
        return made

    def _encode(self, arrays: Mapping[str, Array]) -> Tensor:
        self.encoded += 1
        made = self._model.encode({name: self._on_device(held) for name, held in arrays.items()})
        return made.to(self._dtype)

    def _keep(self, content_id: str, made: Tensor) -> None:
        before = self._kept.pop(content_id, None)
        self._bytes += made.nbytes - (0 if before is None else before.nbytes)
        self._kept[content_id] = made
        while self._bytes > self.most_bytes and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.nbytes

    def _nothing(self, shape: tuple[int, int]) -> Tensor:
        return torch.full(shape, torch.nan, dtype=self._dtype, device=self._device)

    def _on_device(self, array: Array) -> Tensor:
        return torch.tensor(array, device=self._device)  # a copy: the array may be read-only
