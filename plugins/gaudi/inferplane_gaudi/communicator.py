"""Collectives between Gaudi devices through the vendor's library."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from inferplane.interfaces import Communicator, WorkerContext
from inferplane_gaudi._sdk import Stack

__all__ = ["HpuCommunicator"]


class HpuCommunicator(Communicator):
    """One group over all ranks of the model."""

    def __init__(self, context: WorkerContext, stack: Stack) -> None:
        """Waits for all ranks."""
        self.rank = context.rank
        self.world_size = context.config.tensor_parallel
        stack.register_collectives()
        dist.init_process_group(
            stack.collectives,
            init_method=context.rendezvous,
            rank=self.rank,
            world_size=self.world_size,
        )

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum over all ranks, in x's memory."""
        x = x.contiguous()
        dist.all_reduce(x)
        return x

    def all_gather(self, x: Tensor, dim: int) -> Tensor:
        """All ranks' x side by side along `dim`, in rank order."""
        gathered = x.new_empty((self.world_size * x.shape[0], *x.shape[1:]))
        dist.all_gather_into_tensor(gathered, x.contiguous())
        return torch.cat(gathered.chunk(self.world_size), dim=dim)

    def close(self) -> None:
        """Leave the group; calling it again does nothing."""
        if dist.is_initialized():
            dist.destroy_process_group()
