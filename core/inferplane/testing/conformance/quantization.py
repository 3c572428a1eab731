"""Level 2, quantization: fast paths against dequantise-and-multiply, and formats against numbers.

T tokens, O output features, I input features, G groups of inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import ClassVar, cast

import pytest
import torch
from torch import Tensor

from inferplane.errors import ModelError
from inferplane.interfaces import (
    CanonicalWeight,
    LinearSite,
    QuantFormat,
    QuantKernel,
    QuantScheme,
)
from inferplane.testing.conformance.base import Conformance
from inferplane.testing.conformance.parts import Parts
from inferplane.testing.conformance.state import KitState
from inferplane.testing.conformance.subject import Subject
from inferplane.testing.conformance.tolerances import FROBENIUS

__all__ = [
    "FormatConformance",
    "QuantKernelConformance",
    "dequantized",
    "product_faults",
    "random_weight",
]

SCHEMES = (
    *(QuantScheme("int8", group) for group in (0, -1, 32)),
    QuantScheme("int8", activation="int8"),
    *(
        QuantScheme("int4", group, offset)
        for group, offset in product((32, 64, 128), (False, True))
    ),
    *(QuantScheme("fp8_e4m3", group) for group in (0, -1)),
    QuantScheme("fp8_e4m3", activation="fp8_e4m3"),
)
SIZES = ((128, 64), (256, 384), (576, 192))
TOKENS = (1, 7, 16, 33)
EXPERTS = 5
ROUTES = ((1, 2), (7, 1), (40, 3), (130, 2))
"""Rows, and the experts that each of them chooses."""


class QuantKernelConformance(Conformance):
    """L2 for every quantization kernel of the device, or the one a subclass's fixture gives."""

    level: ClassVar[int] = 2
    wide_only: ClassVar[bool] = True

    @pytest.fixture
    def quant_kernels(self, subject: Subject) -> list[type[QuantKernel]]:
        """The classes to check."""
        return [
            cast("type[QuantKernel]", e.load()) for e in subject.entries("quantization_kernels")
        ]

    def test_refusals_are_reasons(
        self, subject: Subject, quant_kernels: list[type[QuantKernel]]
    ) -> None:
        """Asked with odd sites; never raises, never answers without words."""
        for kernel in quant_kernels:
            for scheme in SCHEMES:
                for site in (LinearSite(1, 1, "float32"), LinearSite(33, 7, "nonsense", 3)):
                    reasons = kernel.supports(scheme, site, subject.caps)
                    assert all(isinstance(r, str) and r.strip() for r in reasons)

    def test_products_match_the_dequantised_weights(
        self,
        subject: Subject,
        quant_kernels: list[type[QuantKernel]],
        inferplane_kit: KitState,
    ) -> None:
        """In the Frobenius norm, for every scheme, size and dtype it takes."""
        parts = inferplane_kit.parts(subject) if quant_kernels else None
        faults = []
        for kernel in quant_kernels:
            assert parts is not None
            for scheme, site in _served(kernel, subject):
                weight = random_weight(scheme, site)
                faults += product_faults(kernel, scheme, site, weight, parts)
        assert faults == []

    def test_stacks_match_each_expert_s_dequantised_weights(
        self,
        subject: Subject,
        quant_kernels: list[type[QuantKernel]],
        inferplane_kit: KitState,
    ) -> None:
        """Rows meet their own experts' matrices, in their own order; one expert may get them all.

        Kernels without stacks are not asked for them.
        """
        faults = []
        for kernel in quant_kernels:
            if kernel.apply_each is QuantKernel.apply_each:
                continue
            parts = inferplane_kit.parts(subject)
            for scheme, site in _served(kernel, subject, EXPERTS):
                faults += _stack_faults(kernel, scheme, site, parts)
        assert faults == []

    def test_every_fp8_code_keeps_its_value(
        self,
        subject: Subject,
        quant_kernels: list[type[QuantKernel]],
        inferplane_kit: KitState,
    ) -> None:
        """All finite codes, byte 0x80 (minus zero) included: the flavours differ silently."""
        parts = inferplane_kit.parts(subject) if quant_kernels else None
        for kernel in quant_kernels:
            for scheme, site in _served(kernel, subject):
                if scheme.weight != "fp8_e4m3" or scheme.activation or site.out_features != 384:
                    continue
                assert parts is not None
                weight = _every_code(scheme, site)
                identity = torch.eye(site.in_features, dtype=getattr(torch, site.dtype))
                got = _apply(kernel, scheme, site, weight, identity, parts)
                want = dequantized(scheme, weight).T
                assert torch.equal(got, want), f"{kernel.__name__} {scheme} {site}"


class FormatConformance:
    """For a QuantFormat: a subclass gives the four fixtures, from a real checkpoint's tensors."""

    @pytest.fixture
    def quant_format(self) -> QuantFormat:
        """The format, made from the checkpoint's quantization_config."""
        raise pytest.UsageError("override the fixture quant_format")

    @pytest.fixture
    def layer(self) -> str:
        """The name of a layer of that checkpoint."""
        raise pytest.UsageError("override the fixture layer")

    @pytest.fixture
    def stored(self) -> Mapping[str, Tensor]:
        """The layer's tensors by their names in the checkpoint."""
        raise pytest.UsageError("override the fixture stored")

    @pytest.fixture
    def expected(self) -> Tensor:
        """f32 [O,I]: the weights they stand for."""
        raise pytest.UsageError("override the fixture expected")

    def test_it_names_exactly_the_tensors_it_needs(
        self, quant_format: QuantFormat, layer: str, stored: Mapping[str, Tensor]
    ) -> None:
        """More or fewer would be an error while loading."""
        assert sorted(quant_format.tensors(layer)) == sorted(stored)

    def test_the_canonical_weight_stands_for_the_same_numbers(
        self,
        quant_format: QuantFormat,
        layer: str,
        stored: Mapping[str, Tensor],
        expected: Tensor,
    ) -> None:
        """Unpacking loses nothing."""
        scheme = quant_format.scheme(layer)
        assert scheme is not None
        weight = quant_format.canonical(layer, stored)
        got = dequantized(scheme, weight).float()
        torch.testing.assert_close(got, expected.float(), rtol=1e-5, atol=1e-6)

    def test_a_misshapen_tensor_is_named(
        self, quant_format: QuantFormat, layer: str, stored: Mapping[str, Tensor]
    ) -> None:
        """A damaged file is the user's problem, and needs a name."""
        name = max(stored, key=lambda n: stored[n].numel())
        broken = {**stored, name: stored[name].flatten()[:-1]}
        with pytest.raises(ModelError, match=name.rsplit(".", 1)[-1]):
            quant_format.canonical(layer, broken)


def dequantized(scheme: QuantScheme, weight: CanonicalWeight) -> Tensor:
    """f64 [O,I]: what a canonical weight stands for."""
    values = weight.values.double()
    repeats = values.shape[-1] // weight.scales.shape[-1]
    dense = values * weight.scales.double().repeat_interleave(repeats, -1)
    if weight.offsets is not None:
        dense = dense + weight.offsets.double().repeat_interleave(repeats, -1)
    return dense


def _served(
    kernel: type[QuantKernel], subject: Subject, experts: int = 0
) -> Iterator[tuple[QuantScheme, LinearSite]]:
    for scheme, (inputs, outputs), dtype in product(SCHEMES, SIZES, subject.caps.compute_dtypes):
        site = LinearSite(inputs, outputs, dtype, experts)
        fits = scheme.group <= 0 or inputs % scheme.group == 0
        if fits and not kernel.supports(scheme, site, subject.caps):
            yield scheme, site


def random_weight(scheme: QuantScheme, site: LinearSite, seed: int = 0) -> CanonicalWeight:
    """A layer of about unit gain, the same for the same arguments."""
    generator = torch.Generator().manual_seed(site.in_features + scheme.group + 1000 * seed)
    shape = (site.out_features, site.in_features)
    if scheme.weight == "fp8_e4m3":
        values = torch.randn(shape, generator=generator).to(torch.float8_e4m3fn)
    else:
        most = 8 if scheme.weight == "int4" else 128
        values = torch.randint(-most, most, shape, generator=generator).to(torch.int8)
    spread = values.double().abs().mean() * site.in_features**0.5
    scales = (0.5 + torch.rand(_scale_shape(scheme, site), generator=generator)) / spread
    if scheme.group == -1:
        scales = scales[:1].expand(site.out_features, 1).contiguous()
    offsets = scales * torch.randn(scales.shape, generator=generator) if scheme.offset else None
    return CanonicalWeight(values, scales.float(), offsets if offsets is None else offsets.float())


def _every_code(scheme: QuantScheme, site: LinearSite) -> CanonicalWeight:
    codes = torch.arange(256, dtype=torch.uint8)
    finite = codes[(codes & 0x7F) != 0x7F]
    count = site.in_features * site.out_features
    values = finite.repeat(count // len(finite) + 1)[:count]
    shape = site.out_features, site.in_features
    ones = torch.ones(_scale_shape(scheme, site))
    return CanonicalWeight(values.view(torch.float8_e4m3fn).view(shape), ones)


def _scale_shape(scheme: QuantScheme, site: LinearSite) -> tuple[int, int]:
    return site.out_features, site.in_features // scheme.group if scheme.group > 0 else 1


def product_faults(
    kernel: type[QuantKernel],
    scheme: QuantScheme,
    site: LinearSite,
    weight: CanonicalWeight,
    parts: Parts,
) -> list[str]:
    """Where a kernel's products are beyond their limit; [] = nowhere."""
    generator = torch.Generator().manual_seed(1)
    limit = FROBENIUS["linear_4bit" if not scheme.activation else "linear_8bit"]
    dense, faults = dequantized(scheme, weight), []
    for num_tokens in TOKENS:
        x = torch.randn(num_tokens, site.in_features, generator=generator)
        x = x.to(getattr(torch, site.dtype))
        got = _apply(kernel, scheme, site, weight, x, parts)
        want = x.double() @ dense.T
        error = float((got - want).norm() / want.norm())
        if not error <= limit:
            faults.append(f"{kernel.__name__} {scheme} {site} T={num_tokens}: error {error:.3g}")
    return faults


def _stack_faults(
    kernel: type[QuantKernel], scheme: QuantScheme, site: LinearSite, parts: Parts
) -> list[str]:
    generator = torch.Generator().manual_seed(2)
    limit = FROBENIUS["linear_4bit" if not scheme.activation else "linear_8bit"]
    each = [random_weight(scheme, site, seed) for seed in range(site.num_experts)]
    dense = torch.stack([dequantized(scheme, weight) for weight in each])
    stack, faults = _stacked(each), []
    for rows, choices in ROUTES:
        x = torch.randn(rows, site.in_features, generator=generator)
        x = x.to(getattr(torch, site.dtype))
        random = torch.rand(rows, site.num_experts, generator=generator)
        routes = {"random": random.argsort(1)[:, :choices].int()}
        if choices == 1:
            routes["one expert"] = torch.full_like(routes["random"], 3)
        for name, ids in routes.items():
            got = _apply(kernel, scheme, site, stack, x, parts, ids)
            want = torch.einsum("ri,rkoi->rko", x.double(), dense[ids.long()]).flatten(0, 1)
            error = float((got - want).norm() / want.norm())
            if not error <= limit:
                told = f"{rows} rows of {choices} experts ({name})"
                faults.append(f"{kernel.__name__} {scheme} {site} {told}: error {error:.3g}")
    return faults


def _stacked(each: list[CanonicalWeight]) -> CanonicalWeight:
    values = torch.stack([weight.values.view(torch.int8) for weight in each])
    offsets = [weight.offsets for weight in each if weight.offsets is not None]
    return CanonicalWeight(
        values.view(each[0].values.dtype),
        torch.stack([weight.scales for weight in each]),
        torch.stack(offsets) if offsets else None,
    )


def _apply(
    kernel: type[QuantKernel],
    scheme: QuantScheme,
    site: LinearSite,
    weight: CanonicalWeight,
    x: Tensor,
    parts: Parts,
    ids: Tensor | None = None,
) -> Tensor:
    """f64 [T,O] from the device; [T*k,O] of a stack, for the experts ids i32[T,k]."""
    device = parts.torch_device
    with parts.runtime.guard():
        moved = CanonicalWeight(
            weight.values.clone().to(device),
            weight.scales.clone().to(device),
            None if weight.offsets is None else weight.offsets.clone().to(device),
        )
        made = kernel(scheme, site, parts.runtime)
        packed = made.repack(moved)
        if ids is not None:
            return made.apply_each(x.to(device), packed, ids.to(device)).cpu().double()
        return made.apply(x.to(device), packed).cpu().double()
