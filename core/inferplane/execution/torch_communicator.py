"""Collectives over torch.distributed's gloo, for ranks whose platform brings none of its own."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor, empty

from inferplane.interfaces import Communicator

__all__ = ["TorchCommunicator"]


class TorchCommunicator(Communicator):
    """Eager only; tensors must be where gloo reaches them (host memory)."""

    def __init__(self, rank: int, world_size: int, rendezvous: str) -> None:
        """`rendezvous` is an init_method such as "file:///…"; waits for all ranks."""
        self.rank = rank
        self.world_size = world_size
        dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world_size)

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum over ranks, in `x`'s own memory."""
        x = x.contiguous()
        dist.all_reduce(x)
        return x

    def all_gather(self, x: Tensor, dim: int) -> Tensor:
        """Concatenated along `dim` in rank order."""
        moved = x.movedim(dim, 0).contiguous()
        out = empty((self.world_size * moved.shape[0], *moved.shape[1:]), dtype=x.dtype)
        dist.all_gather_into_tensor(out, moved)
        return out.movedim(0, dim).contiguous()

    def close(self) -> None:
        """Leave the group; may be called twice."""
        if dist.is_initialized():
            dist.destroy_process_group()
