"""Level 3, the compatibility matrix: "native" runs and is right, "no" refuses with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest

from inferplane.errors import ConfigError
from inferplane.interfaces import AttentionBackend, LinearSite, QuantKernel
from inferplane.matrix import DTYPES
from inferplane.quantization.reference import ReferenceKernel
from inferplane.settle import check_settings
from inferplane.testing.conformance.attention import Bench, scene_faults
from inferplane.testing.conformance.attention_scenes import SCENES
from inferplane.testing.conformance.base import Conformance
from inferplane.testing.conformance.features import ATTENTION, QUANTIZATION, features_of
from inferplane.testing.conformance.parts import Parts
from inferplane.testing.conformance.quantization import product_faults, random_weight
from inferplane.testing.conformance.subject import Subject

__all__ = ["MatrixConformance"]

_NOT_NATIVE = ("reference", "dequantized", "")
_INPUTS, _OUTPUTS = 256, 384


class MatrixConformance(Conformance):
    """L3: each cell that a report of this device would show is put to the test."""

    level: ClassVar[int] = 3
    wide_only: ClassVar[bool] = True

    def test_native_attention_runs_in_every_scene(self, subject: Subject, parts: Parts) -> None:
        """By the backend that the cell names, within its tolerance."""
        faults = []
        dtype = subject.caps.compute_dtypes[0]
        for feature, name in _cells(subject, "attention"):
            if name in _NOT_NATIVE:
                continue
            backend = cast("type[AttentionBackend]", _part(subject, "attention", name))
            bench = Bench(backend, parts, subject)
            assert bench.layout is not None, f"{feature}: {name} reads no layout of the device"
            spec = replace(
                ATTENTION[feature], dtype=dtype, kv_dtype=dtype, block_size=bench.block_size
            )
            for scene in SCENES:
                if not scene.drafts:
                    faults += scene_faults(bench, feature, spec, scene)
        assert faults == []

    def test_attention_that_is_only_emulated_is_refused_by_every_backend_with_reasons(
        self, subject: Subject
    ) -> None:
        """ "emulated" is the reference's work: each backend says why it is not its own."""
        caps = subject.caps
        for feature, name in _cells(subject, "attention"):
            if name != "reference":
                continue
            spec = replace(
                ATTENTION[feature],
                dtype=caps.compute_dtypes[0],
                kv_dtype=caps.compute_dtypes[0],
                block_size=caps.block_multiple,
            )
            for entry in subject.entries("attention"):
                assert cast(Any, entry.load()).supports(spec, caps), f"{feature}: {entry.name}"

    def test_native_quantization_multiplies_by_what_the_weights_mean(
        self, subject: Subject, parts: Parts
    ) -> None:
        """By the kernel that the cell names, within the kit's limit."""
        faults = []
        for feature, name in _cells(subject, "quantization"):
            if name in _NOT_NATIVE:
                continue
            kernel = cast("type[QuantKernel]", _part(subject, "quantization_kernels", name))
            faults += _product(kernel, feature, subject, parts)
        assert faults == []

    def test_dequantized_weights_are_refused_with_reasons_and_multiplied_rightly(
        self, subject: Subject, parts: Parts
    ) -> None:
        """Every kernel says why not, and the core's own does the work."""
        faults = []
        for feature, name in _cells(subject, "quantization"):
            if name != "dequantized":
                continue
            site = LinearSite(_INPUTS, _OUTPUTS, subject.caps.compute_dtypes[0])
            for entry in subject.entries("quantization_kernels"):
                reasons = cast(Any, entry.load()).supports(
                    QUANTIZATION[feature], site, subject.caps
                )
                assert reasons, f"{feature}: {entry.name} takes it, the matrix says it does not"
            faults += _product(ReferenceKernel, feature, subject, parts)
        assert faults == []

    def test_a_dtype_without_a_cell_is_refused_by_name(self, subject: Subject) -> None:
        """With those that are accepted, before anything is loaded."""
        config = subject.config(Path("a-model"))
        for dtype in DTYPES:
            asked = replace(config, dtype=dtype)
            if dtype in subject.caps.compute_dtypes:
                check_settings(subject.device, asked, subject.caps)
                continue
            with pytest.raises(ConfigError, match=f"no dtype '{dtype}' .accepted: auto, "):
                check_settings(subject.device, asked, subject.caps)


def _cells(subject: Subject, section: str) -> Iterator[tuple[str, str]]:
    """(feature, what serves it)"""
    found = features_of(subject)[section]
    assert isinstance(found, dict)
    yield from found.items()


def _part(subject: Subject, kind: str, name: str) -> object:
    return next(entry for entry in subject.entries(kind) if entry.name == name).load()


def _product(kernel: type[QuantKernel], feature: str, subject: Subject, parts: Parts) -> list[str]:
    scheme = QUANTIZATION[feature]
    site = LinearSite(_INPUTS, _OUTPUTS, subject.caps.compute_dtypes[0])
    return product_faults(kernel, scheme, site, random_weight(scheme, site), parts)
