"""Collectives between GPUs through the vendor's library, captured like any kernel."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from inferplane.interfaces import Communicator, DeviceRuntime, WorkerContext

__all__ = ["GpuCommunicator"]


class GpuCommunicator(Communicator):
    """One group over all ranks of the model."""

    def __init__(self, context: WorkerContext, device: DeviceRuntime, backend: str) -> None:
        """`backend`: torch's name of the library ("nccl", which HIP builds answer with RCCL)."""
        self.rank = context.rank
        self.world_size = context.config.tensor_parallel
        where = torch.device(device.torch_device)
        torch.get_device_module(where).set_device(where)
        dist.init_process_group(
            backend,
            init_method=context.rendezvous,
            rank=self.rank,
            world_size=self.world_size,
            device_id=where,
        )

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum over all ranks, in x's memory."""
        dist.all_reduce(x)
        return x

    def all_gather(self, x: Tensor, dim: int) -> Tensor:
        """All ranks' x side by side along `dim`, in rank order."""
        gathered = x.new_empty((self.world_size, *x.shape))
        dist.all_gather_into_tensor(gathered, x.contiguous())
        return torch.cat(tuple(gathered.unbind(0)), dim=dim)

    def close(self) -> None:
        """Leave the group; calling it again does nothing."""
        if dist.is_initialized():
            dist.destroy_process_group()
