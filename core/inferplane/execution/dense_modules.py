"""Linear layers that a sentence-transformers folder puts behind the pooling.

E texts, D and O sizes of a layer's inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from inferplane.checkpoint import Checkpoint, open_checkpoint
from inferplane.errors import ModelError
from inferplane.loading import iterate_weights

__all__ = ["DenseModule", "behind_pooling", "read_dense_module"]

_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "GELU": torch.nn.functional.gelu,
    "Identity": lambda x: x,
    "ReLU": torch.relu,
    "SiLU": torch.nn.functional.silu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
}
_WEIGHT, _BIAS = "linear.weight", "linear.bias"


class DenseModule:
    """f32[E,D] -> f32[E,O]."""

    __slots__ = ("_activation", "_bias", "_weight")

    def __init__(
        self, weight: Tensor, bias: Tensor | None, activation: Callable[[Tensor], Tensor]
    ) -> None:
        """weight f32[O,D], bias f32[O]."""
        self._weight = weight
        self._bias = bias
        self._activation = activation

    def __call__(self, pooled: Tensor) -> Tensor:
        return self._activation(torch.nn.functional.linear(pooled, self._weight, self._bias))


def read_dense_module(folder: Path, device: str) -> DenseModule:
    """The layer in `folder`. Raises ModelError for files that do not say all, or say more."""
    checkpoint = open_checkpoint(folder)
    config = checkpoint.config
    kind = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    activation = _ACTIVATIONS.get(kind.rpartition(".")[2])
    if activation is None:
        known = ", ".join(_ACTIVATIONS)
        raise ModelError(f"{folder}: activation_function {kind!r} is not one of {known}")
    for key in ("module_input_name", "module_output_name"):
        if config.get(key, "sentence_embedding") != "sentence_embedding":
            raise ModelError(f"{folder}: {key} is {config[key]!r}; sentence_embedding is accepted")
    shapes = _shapes(checkpoint)
    found = {
        name: tensor.to(device, torch.float32, copy=True)
        for name, tensor in iterate_weights(checkpoint)
        if name in shapes and tuple(tensor.shape) == shapes[name]
    }
    if wrong := sorted(shapes.keys() ^ checkpoint.tensors.keys() | (shapes.keys() - found.keys())):
        wanted = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise ModelError(f"{folder}: tensor {wrong[0]!r} does not fit its config.json: {wanted}")
    return DenseModule(found[_WEIGHT], found.get(_BIAS), activation)


def behind_pooling(
    head: Callable[[Tensor], Tensor], modules: Iterable[DenseModule]
) -> Callable[[Tensor], Tensor]:
    """What becomes of pooled states f32[E,D]: `head` where there are no modules."""
    chain = tuple(modules)
    if not chain:
        return head

    def run(pooled: Tensor) -> Tensor:
        for module in chain:
            pooled = module(pooled)
        return pooled

    return run


def _shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    config = checkpoint.config
    sizes = [config.get(key) for key in ("out_features", "in_features")]
    outputs, inputs = (size if type(size) is int and size > 0 else 0 for size in sizes)
    if not outputs or not inputs:
        raise ModelError(
            f"{checkpoint.root}/config.json: in_features and out_features are {sizes[1]!r} and "
            f"{sizes[0]!r}, need whole numbers above 0"
        )
    bias = config.get("bias", True) is True
    return {_WEIGHT: (outputs, inputs)} | ({_BIAS: (outputs,)} if bias else {})
