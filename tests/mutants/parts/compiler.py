"""A compiler that captures nothing but counts what it is asked for, as a real one would."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from inferplane import interfaces as api


class CountingCompiler(api.GraphCompiler):
    """One program a bucket; inputs must look like the example's."""

    def __init__(self) -> None:
        self._compiles = self._late = 0
        self._sealed = False

    def compile(
        self,
        fn: api.StepFunction,
        bucket: api.Bucket,
        kv: Mapping[str, object],
        example: Mapping[str, Tensor],
    ) -> api.StepFunction:
        self._compiles += 1
        self._late += self._sealed
        return fn

    def seal(self) -> None:
        self._sealed = True

    def stats(self) -> api.ExecutorStats:
        return api.ExecutorStats(compiles=self._compiles, compiles_after_start=self._late)
