"""From a model's files to a model in device memory; knows nothing of KV nor of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from inferplane.checkpoint import Checkpoint, open_checkpoint
from inferplane.checkpoint.sentence_layout import read_sentence_layout
from inferplane.errors import ConfigError
from inferplane.execution.dense_modules import behind_pooling, read_dense_module
from inferplane.execution.pooling import Pooling, read_pooling
from inferplane.interfaces import (
    Allocator,
    Communicator,
    DeviceRuntime,
    Model,
    Progress,
    SeesPictures,
    WorkerContext,
)
from inferplane.launch import LaunchPlan
from inferplane.layers.build import AttentionSite, Builder
from inferplane.loading import WeightTable, dummy_weights, iterate_weights
from inferplane.model_config import read_model_config
from inferplane.models.choice import choose_model
from inferplane.ops.bind import Binder
from inferplane.speech_config import SpeechConfig

__all__ = ["LoadedModel", "load_model"]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model with its weights, and what was decided on the way."""

    model: Model
    sites: tuple[AttentionSite, ...]
    dtype: str
    vocab_size: int
    binder: Binder
    pooling: Pooling
    head: Callable[[Tensor], Tensor]
    """What becomes of pooled states f32[E,D]."""
    generates: bool = True
    """False: its steps want vectors of whole texts, never logits."""
    speech: SpeechConfig | None = None
    """None = it hears nothing."""


def load_model(
    plan: LaunchPlan,
    context: WorkerContext,
    device: DeviceRuntime,
    allocator: Allocator,
    communicator: Communicator | None,
    progress: Progress,
) -> LoadedModel:
    """Build the model for this rank and stream its weights in.

    Raises ModelError for files that do not fit, ConfigError for what cannot be served.
    """
    checkpoint = open_checkpoint(Path(context.config.model))
    config = read_model_config(checkpoint, context.config.dtype, context.config.quantization)
    catalogue, labels = plan.catalogue(), plan.labels()
    binder = Binder(catalogue, labels, context.caps, context.config)
    architecture, choice = choose_model(
        catalogue,
        config.architecture,
        labels,
        registered=plan.model_impl == "auto",
        sees=plan.image_token is not None and plan.speech is None,
    )
    binder.choices.append(choice)
    if plan.image_token is not None and not issubclass(architecture, SeesPictures):
        raise ConfigError(
            f"{choice.name} of {choice.owner} computes {config.architecture} and takes no pictures:"
            " choose model_impl transformers"
        )
    dtype = getattr(torch, config.dtype)
    world_size = communicator.world_size if communicator else 1
    with device.guard(), allocator.pool("weights"):
        build = Builder(
            config,
            binder,
            dtype,
            device.torch_device,
            context.rank,
            world_size,
            communicator,
            device,
        )
        model = architecture(config, build)
        made_on = device.torch_device if device.devices == 1 else "cpu"
        model.load(_weights(plan, checkpoint, model, dtype, made_on, progress))
        dense = () if architecture.has_head else read_sentence_layout(checkpoint).dense
        modules = [read_dense_module(folder, device.torch_device) for folder in dense]
        device.synchronize()
    return LoadedModel(
        model,
        build.loaded_sites(),
        config.dtype,
        config.vocab_size,
        binder,
        read_pooling(checkpoint, architecture),
        behind_pooling(model.head, modules),
        plan.generates,
        plan.speech,
    )


class _Stream(Protocol):
    source: str

    def __iter__(self) -> Iterator[tuple[str, Tensor]]: ...

    def __len__(self) -> int: ...

    def origin(self, name: str) -> str: ...


class _HasWeights(Protocol):
    weights: WeightTable


class _Reported:
    """A weight stream that tells how far it is, now and then."""

    def __init__(self, stream: _Stream, progress: Progress) -> None:
        self.source = stream.source
        self.origin = stream.origin
        self._stream = stream
        self._progress = progress

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        total = len(self._stream)
        every = max(total // 50, 1)
        for done, (name, tensor) in enumerate(self._stream):
            if done % every == 0:
                self._progress("load", done, total, name)
            yield name, tensor
        self._progress("load", total, total, "weights")


def _weights(
    plan: LaunchPlan,
    checkpoint: Checkpoint,
    model: _HasWeights,
    dtype: torch.dtype,
    device: str,
    progress: Progress,
) -> Iterable[tuple[str, Tensor]]:
    if plan.load_format == "dummy":
        progress("load", 0, 0, "dummy weights")
        return dummy_weights(model, plan.seed, device)
    return _Reported(iterate_weights(checkpoint, dtype, model.weights.packed()), progress)
