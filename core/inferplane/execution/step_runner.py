"""One step after another on a loaded model: upload, program, sampling, download.

R sampled sequences.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inferplane.errors import DeviceError
from inferplane.execution.attention_plan import AttentionPlan
from inferplane.execution.compiled_draws import CompiledDraws
from inferplane.execution.inputs import SAMPLING_PREFIX, InputBuilder, StepInputs
from inferplane.execution.model_loading import LoadedModel
from inferplane.execution.picture_encoder import PictureEncoder
from inferplane.execution.programs import Programs
from inferplane.execution.results import ResultMaker, Sample, StepPending
from inferplane.interfaces import (
    Bucket,
    DeviceRuntime,
    GraphCompiler,
    KVStore,
    MediaRows,
    SeesPictures,
    StepBatch,
    WorkerContext,
)
from inferplane.ops.sampling import SamplingTensors

__all__ = ["StepRunner"]


class StepRunner:
    """Runs steps in order. `programs` and the token counts are read by the executor's `stats`;
    with `compiles_draws` drawing is a program for each number of rows."""

    def __init__(
        self,
        context: WorkerContext,
        device: DeviceRuntime,
        store: KVStore,
        loaded: LoadedModel,
        attention: AttentionPlan,
        compiler: GraphCompiler | None,
    ) -> None:
        sample: Sample = loaded.binder.op("sample/1", "float32", V=loaded.vocab_size)
        config, buckets = context.config, context.shapes.buckets()
        self.programs = Programs(
            loaded.model,
            attention.parts,
            compiler,
            lambda x: sample(x, SamplingTensors())[0],
            loaded.generates,
        )
        self.pictures: PictureEncoder | None = None
        """What encodes pictures, where the model sees any."""
        if isinstance(loaded.model, SeesPictures):
            self.pictures = PictureEncoder(
                loaded.model,
                device.torch_device,
                getattr(torch, loaded.dtype),
                context.model.hidden_size,
            )
        self.real_tokens = 0
        self.padded_tokens = 0
        self._device = device
        self._store = store
        cached = [part for part in attention.parts if part.spec.cached]
        own = [name for part in cached if not part.crosses for name in part.layers]
        self._kv = {name: store.layer(name) for name in own}
        self._kv |= {site.name: self._kv[site.reads] for site in loaded.sites if site.reads}
        self._overlaps = context.caps.limits.async_steps > 0
        self._inputs = InputBuilder(
            attention.parts,
            context.shapes,
            attention.block_size,
            config.max_model_len,
            self.programs.takes_any_shape,
            self._overlaps,
            loaded.speech,
        )
        self._static = context.caps.static_shapes
        draws = "temperature" in context.caps.sampler.params
        self.compiles_draws = self._static and draws and compiler is not None
        drawing = sample
        if compiler is not None and self.compiles_draws:
            drawing = CompiledDraws(sample, compiler)
        self._results = ResultMaker(loaded, drawing, device, self._static)
        widest = max((bucket.num_seqs for bucket in buckets), default=0)
        # the tokens drawn last behind a -1, at an address that programs may know
        self._previous = torch.zeros(
            1 + max(config.max_num_seqs, widest), dtype=torch.int32, device=device.torch_device
        )
        self._previous[0] = -1

    def run(self, batch: StepBatch, bucket: Bucket | None = None) -> StepPending:
        """Enqueue a step, in `bucket` or the one its shape selects; nothing waits for the device.

        Raises DeviceError when a device that needs buckets has none for it.
        """
        if batch.zeroed is not None:
            self._store.zero(batch.zeroed)
        if batch.copied is not None:
            self._store.copy(batch.copied)
        inputs = self._inputs.build(batch, bucket)
        if self._static and inputs.bucket is None:
            raise DeviceError(f"step {batch.step}: no bucket holds it, and nothing runs eagerly")
        sampling = {SAMPLING_PREFIX + name: x for name, x in inputs.sampling.arrays.items()}
        tensors = self._device.to_device(inputs.arrays | sampling, inputs.padding)
        taken = {name: tensors[name] for name in inputs.arrays}
        if batch.media:
            taken |= self._encoded(batch.media)
        outputs = self._run_program(inputs, {**taken, "previous": self._previous})
        pending, drawn = self._results.begin(inputs, tensors, outputs)
        if drawn is not None and self._overlaps:
            # a failed row's successor is computed and thrown away, so any token will do
            torch.clamp(drawn.to(torch.int32), min=0, out=self._previous[1 : 1 + len(drawn)])
        self.real_tokens += len(batch.token_ids)
        self.padded_tokens += len(inputs.batch.token_ids)
        return pending

    def _encoded(self, media: tuple[MediaRows, ...]) -> dict[str, Tensor]:
        if self.pictures is None:
            raise DeviceError("a step has pictures, and the model takes none")
        rows, values = self.pictures.place(media)
        return {"media_rows": rows, "media_values": values}

    def _run_program(self, inputs: StepInputs, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        bucket, metas = inputs.bucket, inputs.metas
        if bucket is not None and self.programs.compiles(bucket):
            program = self.programs.compiled(bucket, metas, self._kv, tensors)
        else:
            program = self.programs.eager(metas, finish=not inputs.sampling.arrays)
        return dict(program(self._kv, tensors))
