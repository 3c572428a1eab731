"""A BERT or RoBERTa checkpoint as an ONNX graph of the runtime's fused operators.

B texts, L places of the longest, D hidden size, I inner size, V vocabulary, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from inferplane.errors import ConfigError, ModelError
from inferplane.interfaces import Array
from inferplane.model_config import ModelConfig
from inferplane.model_tasks import class_labels

__all__ = ["CLASSES", "encoder_graph"]

CLASSES = "classes"
"""The output of a classifier, f32[B,C]; that of others is `hidden` f32[B,L,D]."""

_HIDDEN = "hidden"
_FUSED = "com.microsoft"
_OPSET, _FUSED_OPSET, _IR_VERSION = 17, 1, 9
_MOST_BYTES = (1 << 31) - (1 << 20)
"""Of one protobuf message."""


def encoder_graph(config: ModelConfig, weights: Mapping[str, Array]) -> bytes:
    """The model as a serialised graph over `ids`, `positions` and `segments` i64[B,L] and `lengths`
    i32[B], in float32. `weights`: f32 by name, without the family's prefix.

    Raises ModelError for tensors that are missing or of another shape and for what is not computed,
    ConfigError beyond 2 GiB.
    """
    _check(config, weights)
    graph = _Graph(weights, config)
    hidden = graph.layers()
    if config.architecture.endswith("ForSequenceClassification"):
        graph.name_output(graph.classes(hidden), CLASSES)
        outputs = [helper.make_tensor_value_info(CLASSES, TensorProto.FLOAT, ["B", "C"])]
    else:
        graph.name_output(hidden, _HIDDEN)
        shape = ["B", "L", config.hidden_size]
        outputs = [helper.make_tensor_value_info(_HIDDEN, TensorProto.FLOAT, shape)]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "L"])
        for name in ("ids", "positions", "segments")
    ]
    inputs.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, ["B"]))
    made = helper.make_model(
        helper.make_graph(graph.nodes, "encoder", inputs, outputs, graph.tensors),
        opset_imports=[
            helper.make_opsetid("", _OPSET),
            helper.make_opsetid(_FUSED, _FUSED_OPSET),
        ],
        ir_version=_IR_VERSION,
    )
    return bytes(made.SerializeToString())


class _Graph:
    """Nodes and tensors, gathered layer by layer."""

    def __init__(self, weights: Mapping[str, Array], config: ModelConfig) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self._weights = weights
        self._config = config

    def layers(self) -> str:
        """From token ids to hidden states."""
        config = self._config
        size = config.hidden_size
        kinds = len(self._weights.get("embeddings.token_type_embeddings.weight", ()))
        words = self._embedded("word", config.vocab_size, "ids")
        places = self._embedded("position", config.max_position, "positions")
        segments = self._embedded("token_type", kinds, "segments")
        x = self._node("Add", words, self._node("Add", places, segments))
        norm = self._norm("embeddings.LayerNorm", size)
        x = self._node("LayerNormalization", x, *norm, axis=-1, epsilon=config.norm_eps)
        for number in range(config.num_layers):
            x = self._layer(x, f"encoder.layer.{number}")
        return x

    def classes(self, hidden: str) -> str:
        """A classifier's values, from the first token's state."""
        config = self._config
        size, count = config.hidden_size, len(class_labels(config))
        dense, out = "pooler.dense", "classifier"
        if not config.architecture.startswith("Bert"):
            dense, out = "classifier.dense", "classifier.out_proj"
        first = self._put("first", np.array(0, np.int64))
        x = self._node("Gather", hidden, first, axis=1)
        x = self._node("Tanh", self._linear(x, dense, size, size))
        return self._linear(x, out, size, count)

    def name_output(self, value: str, name: str) -> None:
        """What the graph gives back."""
        self.nodes.append(helper.make_node("Identity", [value], [name]))

    def _layer(self, x: str, prefix: str) -> str:
        config = self._config
        size, inner = config.hidden_size, config.intermediate_size
        eps = config.norm_eps
        attention = f"{prefix}.attention"
        names = [f"{attention}.self.{which}" for which in ("query", "key", "value")]
        weight = np.concatenate([self._take(f"{name}.weight", size, size).T for name in names], 1)
        bias = np.concatenate([self._take(f"{name}.bias", size) for name in names])
        attended = self._node(
            "Attention",
            x,
            self._put(f"{attention}.weight", weight),
            self._put(f"{attention}.bias", bias),
            "lengths",
            domain=_FUSED,
            num_heads=config.num_heads,
            scale=config.attention_scale,
        )
        x = self._residual(attended, x, f"{attention}.output", size, size, eps)
        up = self._product(x, f"{prefix}.intermediate.dense", size, inner)
        bias_name = f"{prefix}.intermediate.dense.bias"
        up = self._node(
            "BiasGelu", up, self._put(bias_name, self._take(bias_name, inner)), domain=_FUSED
        )
        return self._residual(up, x, f"{prefix}.output", inner, size, eps)

    def _residual(self, x: str, skip: str, name: str, rows: int, size: int, eps: float) -> str:
        """Norm of (linear of x + skip)."""
        bias = f"{name}.dense.bias"
        return self._node(
            "SkipLayerNormalization",
            self._product(x, f"{name}.dense", rows, size),
            skip,
            *self._norm(f"{name}.LayerNorm", size),
            self._put(bias, self._take(bias, size)),
            domain=_FUSED,
            epsilon=eps,
        )

    def _embedded(self, kind: str, rows: int, ids: str) -> str:
        name = f"embeddings.{kind}_embeddings.weight"
        table = self._put(name, self._take(name, rows, self._config.hidden_size))
        return self._node("Gather", table, ids, axis=0)

    def _norm(self, name: str, size: int) -> tuple[str, str]:
        weight, bias = f"{name}.weight", f"{name}.bias"
        return (
            self._put(weight, self._take(weight, size)),
            self._put(bias, self._take(bias, size)),
        )

    def _product(self, x: str, name: str, rows: int, columns: int) -> str:
        weight = self._take(f"{name}.weight", columns, rows)
        return self._node("MatMul", x, self._put(f"{name}.weight", weight.T))

    def _linear(self, x: str, name: str, rows: int, columns: int) -> str:
        bias = f"{name}.bias"
        product = self._product(x, name, rows, columns)
        return self._node("Add", product, self._put(bias, self._take(bias, columns)))

    def _node(self, kind: str, *inputs: str, domain: str = "", **attributes: object) -> str:
        out = f"value.{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [out], domain=domain, **attributes))
        return out

    def _put(self, name: str, array: Array) -> str:
        self.tensors.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def _take(self, name: str, *shape: int) -> Array:
        found = self._weights.get(name)
        if found is None or found.shape != shape:
            held = "is missing" if found is None else f"has shape {list(found.shape)}"
            raise ModelError(f"tensor {name!r} {held}; its config.json wants {list(shape)}")
        return found


def _check(config: ModelConfig, weights: Mapping[str, Array]) -> None:
    kind = config.raw.get("position_embedding_type", "absolute")
    if kind != "absolute" or config.raw.get("is_decoder") or config.activation != "gelu":
        raise ModelError(
            f"{config.architecture}: position_embedding_type {kind!r}, hidden_act "
            f"{config.activation!r} or a decoder of this family is not computed by the option "
            "encoder=onnx (accepted: absolute, gelu, is_decoder false)"
        )
    if sum(array.nbytes for array in weights.values()) > _MOST_BYTES:
        raise ConfigError(
            f"{config.architecture}: its weights exceed the 2 GiB of an ONNX graph; leave out the "
            "option encoder=onnx"
        )
