"""An Executor whose steps are runs of an ONNX graph; no KV, nothing drawn.

B texts of one run, L places of the longest, E pooled texts, D size of a vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from inferplane.checkpoint import Checkpoint, open_checkpoint
from inferplane.checkpoint.sentence_layout import Pooling, read_sentence_layout
from inferplane.errors import DeviceError, ModelError
from inferplane.execution.dense_modules import DenseModule, read_dense_module
from inferplane.interfaces import (
    Array,
    Choice,
    Executor,
    ExecutorStats,
    KVPlan,
    Progress,
    StepBatch,
    StepResult,
    WorkerContext,
)
from inferplane.loading import iterate_weights
from inferplane.model_config import ModelConfig, read_model_config
from inferplane_cpu.encoders.graph import CLASSES, encoder_graph

__all__ = ["OnnxEncoder"]

_BLOCK_SIZE = 16
_MOST_PADDED = 4 / 3
"""Places of a run for each token in it."""


@dataclass(frozen=True, slots=True)
class _Done:
    """A step that ran when it was enqueued."""

    found: StepResult

    def result(self) -> StepResult:
        return self.found


class OnnxEncoder(Executor):
    """One rank on `threads` threads; texts of like length run together and are padded little."""

    reads_segments = True

    def __init__(self, context: WorkerContext, threads: int) -> None:
        self._context = context
        self._threads = threads
        self._session: onnxruntime.InferenceSession | None = None
        self._pooling: Pooling = "mean"
        self._dense: list[DenseModule] = []
        self._first_position = 0
        self._tells_kinds = False
        self._real_tokens = self._padded_tokens = 0

    def load(self, progress: Progress) -> None:
        """Build the graph from the checkpoint. Raises ModelError, ConfigError."""
        settings = self._context.config
        checkpoint = open_checkpoint(Path(settings.model))
        config = read_model_config(checkpoint, "float32", settings.quantization)
        weights = _weights(checkpoint, progress)
        self._session = self._open(encoder_graph(config, weights))
        self._tells_kinds = len(weights["embeddings.token_type_embeddings.weight"]) > 1
        self._first_position = _first_position(config)
        layout = read_sentence_layout(checkpoint)
        self._pooling = layout.pooling or "mean"
        if self._session.get_outputs()[0].name != CLASSES:
            self._dense = [read_dense_module(folder, "cpu") for folder in layout.dense]

    def plan_kv(self) -> KVPlan:
        """Nothing is kept; blocks only count what runs at once."""
        config = self._context.config
        size = config.block_size or _BLOCK_SIZE
        return KVPlan(config.max_num_seqs * -(-config.max_model_len // size) + 1, size)

    def start(self, plan: KVPlan, progress: Progress) -> None:
        """One run, which costs the most."""
        self._run(np.zeros((1, 1), np.int64), np.zeros((1, 1), np.int64), np.ones(1, np.int32))
        progress("warm_up", 1, 1, "ready")

    def execute(self, batch: StepBatch) -> _Done:
        """Run the step's texts. Raises DeviceError."""
        none = np.empty((0, 1), np.int32)
        if batch.embedded is None or not len(batch.embedded):
            return _Done(StepResult(none))
        try:
            return _Done(StepResult(none, embeddings=self._vectors(batch, batch.embedded)))
        except Exception as error:  # the runtime's own kinds have no base of theirs
            raise DeviceError(f"step {batch.step} failed: {error}") from error

    def close(self) -> None:
        """Forget everything."""
        self._session = None
        self._dense = []

    def choices(self) -> tuple[Choice, ...]:
        """The runtime, for the whole model."""
        name = f"onnxruntime {onnxruntime.__version__}, {self._threads} threads"
        return (Choice("encoder", "all layers", name, "cpu"),)

    def stats(self) -> ExecutorStats:
        """Tokens, and places that runs had for them."""
        return ExecutorStats(real_tokens=self._real_tokens, padded_tokens=self._padded_tokens)

    def _open(self, graph: bytes) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        # idle threads must sleep: the front end needs the core that they would spin on
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            return onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])
        except Exception as error:  # as in `execute`
            raise ModelError(
                f"{self._context.config.model}: ONNX Runtime refuses its graph: {error}"
            ) from error

    def _vectors(self, batch: StepBatch, embedded: Array) -> Array:
        """f32[E,D]"""
        starts_E = batch.query_start[embedded]
        lengths_E = np.diff(batch.query_start)[embedded]
        found: list[tuple[Array, Array]] = []
        for texts in _alike(lengths_E):
            starts_B, lengths_B = starts_E[texts], lengths_E[texts].astype(np.int32)
            place = np.arange(lengths_B[0])
            rows_BL = starts_B[:, None] + np.minimum(place, lengths_B[:, None] - 1)
            ids_BL = batch.token_ids[rows_BL].astype(np.int64)
            kinds_BL = np.zeros_like(ids_BL)
            if batch.segments is not None and self._tells_kinds:
                kinds_BL = batch.segments[rows_BL].astype(np.int64)
            self._real_tokens += int(lengths_B.sum())
            self._padded_tokens += ids_BL.size
            found.append((texts, self._pool(self._run(ids_BL, kinds_BL, lengths_B), lengths_B)))
        vectors = np.empty((len(embedded), found[0][1].shape[1]), np.float32)
        for texts, part in found:
            vectors[texts] = part
        return vectors

    def _run(self, ids_BL: Array, kinds_BL: Array, lengths_B: Array) -> Array:
        assert self._session is not None, "load comes first"
        positions_L = np.arange(ids_BL.shape[1], dtype=np.int64) + self._first_position
        inputs = {
            "ids": ids_BL,
            "positions": np.ascontiguousarray(np.broadcast_to(positions_L, ids_BL.shape)),
            "segments": kinds_BL,
            "lengths": lengths_B,
        }
        out: Array = self._session.run(None, inputs)[0]
        return out

    def _pool(self, out: Array, lengths_B: Array) -> Array:
        """One vector for each text: classes as they are, states pooled."""
        if out.ndim == 2:
            return out
        if self._pooling == "mean":
            inside_BL = np.arange(out.shape[1]) < lengths_B[:, None]
            pooled = np.einsum("bld,bl->bd", out, inside_BL.astype(np.float32))
            pooled /= lengths_B[:, None].astype(np.float32)
        else:
            last = lengths_B - 1 if self._pooling == "last" else np.zeros_like(lengths_B)
            pooled = out[np.arange(len(out)), last]
        for module in self._dense:
            pooled = module(torch.from_numpy(pooled)).numpy()
        vectors: Array = pooled
        return vectors


def _weights(checkpoint: Checkpoint, progress: Progress) -> dict[str, Array]:
    stream = iterate_weights(checkpoint)
    found: dict[str, Array] = {}
    for done, (name, tensor) in enumerate(stream):
        bare = name.removeprefix("bert.").removeprefix("roberta.")
        found[bare] = tensor.to(torch.float32, copy=True).numpy()
        progress("load", done + 1, len(stream), name)
    return found


def _first_position(config: ModelConfig) -> int:
    """RoBERTa counts positions from the padding id on."""
    if config.architecture.startswith("Bert"):
        return 0
    padding = config.raw.get("pad_token_id", 1)
    return 1 + (padding if isinstance(padding, int) else 1)


def _alike(lengths_E: Array) -> Iterator[Array]:
    """Groups of texts, the longest of each first, with few places beside their tokens."""
    order = np.argsort(-lengths_E, kind="stable")
    first = total = 0
    for at, text in enumerate(order):
        total += int(lengths_E[text])
        if (at - first + 1) * int(lengths_E[order[first]]) > total * _MOST_PADDED:
            yield order[first:at]
            first, total = at, int(lengths_E[text])
    yield order[first:]
