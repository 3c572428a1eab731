"""What a step yields on the device, begun as one download, finished as a StepResult.

R sampled sequences, W = 1 + most drafts of a sequence, E pooled sequences, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inferplane.errors import DeviceError
from inferplane.execution.inputs import SAMPLING_PREFIX, StepInputs
from inferplane.execution.model_loading import LoadedModel
from inferplane.interfaces import (
    Array,
    Bucket,
    DeviceRuntime,
    Logprobs,
    Pending,
    StepBatch,
    StepResult,
)
from inferplane.ops.reference.sampling import LogprobTensors, score
from inferplane.ops.sampling import SamplingTensors
from inferplane.shapes import last_rows

__all__ = ["ResultMaker", "Sample", "StepPending"]


Sample = Callable[[Tensor, SamplingTensors], "tuple[Tensor, LogprobTensors | None]"]

_SCORED_ROWS = 256
"""Rows of logits that scoring holds at once."""


class ResultMaker:
    """The tail of a step: sampling, scoring, pooling, download."""

    def __init__(
        self, loaded: LoadedModel, sample: Sample, device: DeviceRuntime, fixed: bool
    ) -> None:
        """`fixed`: the device compiles every shape apart, so that whole buckets come down and the
        host takes the rows that mean something."""
        self._fixed = fixed
        self._model = loaded.model
        self._head = loaded.head
        self._sample = sample
        self._pooling = loaded.pooling
        self._device = device

    def begin(
        self, inputs: StepInputs, tensors: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
    ) -> tuple[StepPending, Tensor | None]:
        """Enqueue sampling and the download. Also the ids i32[R] for the next step's inputs."""
        batch = inputs.batch
        wanted: dict[str, Tensor] = {}
        next_inputs = None
        if inputs.num_rows:
            ids, logprobs = self._draw(inputs, tensors, outputs)
            wanted["ids"] = ids if self._fixed else ids[: inputs.num_rows]
            next_inputs = wanted["ids"][:: inputs.width]
            if logprobs is not None:
                wanted |= {"logprob." + name: x for name, x in logprobs._asdict().items()}
        if batch.host_rows is not None:
            wanted["logits"] = outputs["logits"]
            if not self._fixed:
                rows = self._rows(batch.host_rows * inputs.width)
                wanted["logits"] = outputs["logits"].index_select(0, rows).float()
        if batch.scored is not None:
            scores = self._score(batch, outputs["hidden"], padded=inputs.padding is not None)
            wanted |= {"score." + name: x for name, x in scores._asdict().items()}
        if batch.embedded is not None:
            pool = self._pool_bucket if self._fixed else self._pool
            pooled = pool(batch, inputs.padding, outputs["hidden"])
            wanted["embeddings"] = self._head(pooled)
        return StepPending(inputs, self._device.to_host(wanted), self._fixed), next_inputs

    def _draw(
        self, inputs: StepInputs, tensors: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
    ) -> tuple[Tensor, LogprobTensors | None]:
        plan = inputs.sampling
        if not plan.arrays and "ids" in outputs:
            return outputs["ids"], None
        sampling = SamplingTensors(
            **{name: tensors[SAMPLING_PREFIX + name] for name in plan.arrays},
            num_logprobs=plan.num_logprobs,
            greedy=plan.greedy,
            truncated=plan.truncated,
        )
        return self._sample(outputs["logits"], sampling)

    def _score(self, batch: StepBatch, hidden: Tensor, padded: bool) -> LogprobTensors:
        assert batch.scored is not None
        count = len(batch.scored)
        total = -(-count // _SCORED_ROWS) * _SCORED_ROWS if padded else count
        pairs = np.zeros((total, 2), np.int32)  # devices with fixed shapes see one shape here too
        pairs[:count] = batch.scored
        rows, ids = self._rows(pairs[:, 0]), self._rows(pairs[:, 1])
        parts = [
            score(
                self._model.logits(hidden.index_select(0, rows[at : at + _SCORED_ROWS])),
                ids[at : at + _SCORED_ROWS],
                batch.num_scored_logprobs,
            )
            for at in range(0, total, _SCORED_ROWS)
        ]
        return LogprobTensors(*(torch.cat(column)[:count] for column in zip(*parts, strict=True)))

    def _pool(self, batch: StepBatch, bucket: Bucket | None, hidden: Tensor) -> Tensor:
        """f32[E,D]: the mean, first or last hidden state of each asked sequence."""
        first_E, last_E = _text_rows(batch, bucket)
        lengths_E = last_E - first_E + 1
        if self._pooling != "mean":
            rows = last_E if self._pooling == "last" else first_E
            return hidden.index_select(0, self._rows(rows)).float()
        return torch.stack(
            [
                hidden[first : first + length].float().mean(0)
                for first, length in zip(first_E.tolist(), lengths_E.tolist(), strict=True)
            ]
        )

    def _pool_bucket(self, batch: StepBatch, bucket: Bucket | None, hidden: Tensor) -> Tensor:
        """f32[S,D]: as `_pool`, in the sizes of the bucket; rows beyond E are zero."""
        first_E, last_E = _text_rows(batch, bucket)
        if self._pooling != "mean":
            first_E = last_E = last_E if self._pooling == "last" else first_E
        share_ST = np.zeros((len(batch.seq_lens), len(batch.token_ids)), np.float32)
        for text, (first, last) in enumerate(zip(first_E, last_E, strict=True)):
            share_ST[text, first : last + 1] = 1.0 / (last - first + 1)
        return torch.mm(self._rows(share_ST), hidden.float())

    def _rows(self, rows: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(rows)).to(self._device.torch_device)


@dataclass(frozen=True, slots=True)
class StepPending:
    """A step under way."""

    inputs: StepInputs
    download: Pending[Mapping[str, Array]]
    fixed: bool = False
    """What was downloaded has the sizes of the bucket."""

    def result(self) -> StepResult:
        """Wait for the download. Raises DeviceError."""
        try:
            arrays = self.download.result()
        except RuntimeError as error:
            raise DeviceError(f"step {self.inputs.batch.step} failed: {error}") from error
        drawn_RW = np.empty((0, 1), np.int32)
        failed = None
        if "ids" in arrays:
            drawn_RW = arrays["ids"][: self.inputs.num_rows].reshape(-1, self.inputs.width)
            if drawn_RW.min(initial=0) < 0:  # hardly ever
                failed = _failed(drawn_RW, self.inputs.batch)
                drawn_RW = np.maximum(drawn_RW, 0)
            if self.inputs.width > 1:
                drawn_RW = _accept(drawn_RW, self.inputs)
        return StepResult(
            drawn_RW,
            logprobs=self._logprobs(arrays, len(drawn_RW)),
            scores=_scores(arrays),
            logits=self._logits(arrays),
            embeddings=self._embeddings(arrays),
            failed=failed,
        )

    def _logits(self, arrays: Mapping[str, Array]) -> Array | None:
        rows, logits = self.inputs.batch.host_rows, arrays.get("logits")
        if rows is None or logits is None or not self.fixed:
            return logits
        return np.ascontiguousarray(logits[rows * self.inputs.width])

    def _embeddings(self, arrays: Mapping[str, Array]) -> Array | None:
        embedded, vectors = self.inputs.batch.embedded, arrays.get("embeddings")
        return vectors if embedded is None or vectors is None else vectors[: len(embedded)]

    def _logprobs(self, arrays: Mapping[str, Array], num_rows: int) -> Logprobs | None:
        """Those of the rows that asked, in place; other rows hold id -1."""
        if "logprob.values" not in arrays:
            return None
        asked = self.inputs.sampling.arrays["logprob_rows"] // self.inputs.width
        width = arrays["logprob.values"].shape[1]
        values = np.full((num_rows, width), -np.inf, np.float32)
        ids = np.full((num_rows, width), -1, np.int32)
        ranks = np.zeros(num_rows, np.int32)
        values[asked], ids[asked] = arrays["logprob.values"], arrays["logprob.ids"]
        ranks[asked] = arrays["logprob.ranks"]
        return Logprobs(values, ids, ranks)


def _text_rows(batch: StepBatch, bucket: Bucket | None) -> tuple[Array, Array]:
    """First and last token row of each sequence whose vector is wanted."""
    assert batch.embedded is not None
    last_E = last_rows(batch, bucket)[batch.embedded]
    return last_E - np.diff(batch.query_start)[batch.embedded] + 1, last_E


def _scores(arrays: Mapping[str, Array]) -> Logprobs | None:
    if "score.values" not in arrays:
        return None
    return Logprobs(arrays["score.values"], arrays["score.ids"], arrays["score.ranks"])


def _failed(drawn_RW: Array, batch: StepBatch) -> Array | None:
    """Rows of `sampled` with a token that could not be drawn."""
    failed = np.flatnonzero((drawn_RW < 0).any(axis=1)).astype(np.int32)
    if batch.host_rows is not None:  # drawn on the host, which sees their logits
        failed = np.setdiff1d(failed, batch.host_rows)
    return failed if len(failed) else None


def _accept(drawn_RW: Array, inputs: StepInputs) -> Array:
    """Drafts that equal what was drawn in their place, then the first token that does not; -1."""
    batch = inputs.batch
    assert batch.drafts is not None
    last_R = last_rows(batch, inputs.padding)[batch.sampled]
    drafts_R = batch.drafts[batch.sampled]
    width = 1 + int(drafts_R.max(initial=0))
    column = np.arange(width - 1)
    at = np.minimum((last_R - drafts_R + 1)[:, None] + column, last_R[:, None])
    equal = (batch.token_ids[at] == drawn_RW[:, : width - 1]) & (column < drafts_R[:, None])
    accepted_R = np.cumprod(equal, axis=1).sum(axis=1)
    out: Array = np.where(np.arange(width) <= accepted_R[:, None], drawn_RW[:, :width], -1)
    return out
