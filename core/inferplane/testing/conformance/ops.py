"""Level 2, ops: every kernel a device would get, against the core's reference in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from inferplane.interfaces import Array, Kernel, OpSite
from inferplane.ops.catalogue import OPS, find_op
from inferplane.registry import Entry
from inferplane.testing.conformance.base import Conformance
from inferplane.testing.conformance.op_cases import OpCase, op_cases
from inferplane.testing.conformance.parts import Parts
from inferplane.testing.conformance.sample_cases import sample_faults
from inferplane.testing.conformance.state import KitState
from inferplane.testing.conformance.subject import Subject
from inferplane.testing.conformance.tolerances import tolerance

__all__ = ["OpsConformance", "load_kernel"]

_TESTED_APART = ("quantize_activation/1", "scaled_matmul/1", "sample/1")
"""Their inputs are no plain tensors; see quantization.py and sample_cases.py."""


class OpsConformance(Conformance):
    """L2. Kernels of other plugins that reach the device by a label are checked as well."""

    level: ClassVar[int] = 2
    wide_only: ClassVar[bool] = True

    def test_kernels_say_why_not_and_never_raise(self, subject: Subject) -> None:
        """`supports` is asked with sizes nobody has."""
        for entry in subject.entries("kernels"):
            kernel = load_kernel(entry)
            for dtype in ("float32", "bfloat16", "int8", "nonsense"):
                for size in (0, 1, 31, 10**6):
                    dims = dict.fromkeys(find_op(entry.name).dims, size)
                    reasons = kernel.supports(OpSite(entry.name, dtype, dims), subject.caps)
                    assert isinstance(reasons, tuple)
                    assert all(isinstance(r, str) and r.strip() for r in reasons)

    def test_kernels_match_the_reference(self, subject: Subject, inferplane_kit: KitState) -> None:
        """T = 1, primes, odd sizes, strided rows, large and small values, in every dtype."""
        parts = inferplane_kit.parts(subject)
        faults = []
        for entry in subject.entries("kernels"):
            if entry.name in OPS and entry.name not in _TESTED_APART:
                faults += _faults(entry, subject, parts)
        assert faults == []

    def test_the_sampling_kernel_draws_what_the_oracle_draws(
        self, subject: Subject, inferplane_kit: KitState
    ) -> None:
        """`sample/1`: greedy with ties, every cut, penalties, masks, seeds, log-probabilities."""
        parts = inferplane_kit.parts(subject)
        for entry in subject.entries("kernels"):
            if entry.name == "sample/1":
                kernel = load_kernel(entry)
                if not kernel.supports(OpSite(entry.name, "float32", {"V": 384}), subject.caps):
                    assert sample_faults(kernel.run, parts) == [], entry.target


def load_kernel(entry: Entry) -> Kernel:
    """The registered kernel; a plain function fits everywhere."""
    found = entry.load()
    return found if isinstance(found, Kernel) else Kernel(found, lambda site, caps: ())


def _faults(entry: Entry, subject: Subject, parts: Parts) -> list[str]:
    """What is wrong with one kernel, one line a case."""
    kernel, info = load_kernel(entry), find_op(entry.name)
    factor = subject.expectations.factors.get(info.tolerance, 1.0)
    faults = []
    for dtype in subject.caps.compute_dtypes:
        for case in op_cases(entry.name):
            if kernel.supports(OpSite(entry.name, dtype, case.dims), subject.caps):
                continue
            allowed = tolerance(info.tolerance, dtype, case.inner, factor, case.scale)
            arguments = _on_device(case, dtype, parts.torch_device)
            before = _copies(arguments)
            got = _run(kernel.run, arguments, parts)
            if _arrays(arguments) and not _equal(before, arguments):
                faults.append(f"{case.name} {dtype}: it writes to its inputs")
            truth = _run(info.reference(), _on_device(case, dtype, "cpu", wide=True), parts)
            own = _run(info.reference(), _on_device(case, dtype, "cpu"), parts)
            for name, (a, b, c) in enumerate(zip(got, truth, own, strict=True)):
                if not np.isfinite(c).all():  # the reference itself overflows in this type
                    continue
                if excess := allowed.excess(a, b, c):
                    faults.append(f"{case.name} {dtype}, result {name}: {excess}")
    return faults


def _on_device(case: OpCase, dtype: str, device: str, wide: bool = False) -> tuple[Any, ...]:
    """The case's arguments: float64 tensors are rounded to `dtype`, others keep their type.

    `wide`: rounded in the same way but held in float64, for the truth.
    """

    def move(argument: Any) -> Any:
        if not isinstance(argument, Tensor):
            return argument
        if argument.dtype == torch.float64:
            narrow = _cast_strided(argument, getattr(torch, dtype))
            return narrow.double() if wide else narrow.to(device)
        return argument.to(device)

    return tuple(move(argument) for argument in case.arguments)


def _cast_strided(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in another dtype, with the strides it has."""
    out = torch.empty_strided(x.shape, x.stride(), dtype=dtype)
    return out.copy_(x)


def _run(run: Callable[..., Any], arguments: tuple[Any, ...], parts: Parts) -> list[Array]:
    with parts.runtime.guard():
        result = run(*arguments)
    outputs = result if isinstance(result, tuple) else (result,)
    return [output.detach().cpu().double().numpy() for output in outputs]


def _arrays(arguments: tuple[Any, ...]) -> list[Tensor]:
    return [argument for argument in arguments if isinstance(argument, Tensor)]


def _copies(arguments: tuple[Any, ...]) -> list[Array]:
    return [x.detach().cpu().double().numpy().copy() for x in _arrays(arguments)]


def _equal(before: list[Array], arguments: tuple[Any, ...]) -> bool:
    return all(
        np.array_equal(a, b, equal_nan=True)
        for a, b in zip(before, _copies(arguments), strict=True)
    )
