"""Drawing as a program of its own, for devices on which every shape is compiled apart.

R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from inferplane.execution.results import Sample
from inferplane.interfaces import Bucket, GraphCompiler, StepFunction
from inferplane.ops.reference.sampling import LogprobTensors
from inferplane.ops.sampling import SamplingTensors

__all__ = ["CompiledDraws"]

_ROWS = ("temperature", "top_k", "top_p", "min_p", "seed", "position")
"""Arrays of one number a row, whose shapes follow from R."""


class CompiledDraws:
    """`sample/1` for steps that ask for nothing ragged: one program for each R.

    Which rows truncate is a value, not a shape: the program is always ready to.
    """

    def __init__(self, sample: Sample, compiler: GraphCompiler) -> None:
        self._sample = sample
        self._compiler = compiler
        self._programs: dict[int, StepFunction] = {}

    def __call__(
        self, logits: Tensor, sampling: SamplingTensors
    ) -> tuple[Tensor, LogprobTensors | None]:
        """As `sample/1`."""
        if sampling.greedy or not replace(sampling, greedy=True).plain:
            return self._sample(logits, sampling)
        inputs = {name: getattr(sampling, name) for name in _ROWS}
        inputs["logits"] = logits
        num_rows = logits.shape[0]
        program = self._programs.get(num_rows)
        if program is None:
            bucket = Bucket("mixed", num_rows, num_rows)
            program = self._compiler.compile(self._draw, bucket, {}, inputs)
            self._programs[num_rows] = program
        return program({}, inputs)["ids"], None

    def _draw(self, kv: Mapping[str, object], inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        temperature, top_k, top_p, min_p, seed, position = (inputs[name] for name in _ROWS)
        sampling = SamplingTensors(
            temperature, top_k, top_p, min_p, seed, position, greedy=False, truncated=True
        )
        return {"ids": self._sample(inputs["logits"], sampling)[0]}
