"""Decode attention over 8 bits in CUDA C++ compiles for its generations and is right on a card."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inferplane.interfaces import AttentionSpec, Capabilities
from inferplane_cuda.attention.coded import SOURCES, CodedAttention, CodedVariant
from inferplane_cuda.programs import compile_source, compiler_problem, read_source

FOLDER = Path(__file__).parents[3] / "benchmarks" / "gpu"
VARIANT = CodedVariant(8, 4, 128, 16, 448, 1, 0, 0, 0)
VARIANTS = {
    "fp8": VARIANT,
    "int8": replace(VARIANT, LARGEST=127),
    "scales of the checkpoint": replace(VARIANT, K_STATIC=1, V_STATIC=1),
    "heads of 64, float16": replace(VARIANT, HEAD=64, HALF=1, GROUP=3),
    "of another layer": replace(VARIANT, NEW=0, GROUP=8),
}
SPEC = AttentionSpec(32, 8, 128, 128, "bfloat16", "fp8", 128**-0.5, 16)

needs_compiler = pytest.mark.skipif(bool(compiler_problem()), reason=compiler_problem())
needs_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@needs_compiler
@pytest.mark.parametrize("arch", ["sm_89", "sm_90", "sm_100", "sm_120"])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_kernel_compiles(name: str, arch: str) -> None:
    source = read_source("inferplane_cuda.attention", SOURCES)
    assert compile_source(source, SOURCES[-1], asdict(VARIANTS[name]), arch)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"kv_dtype": "auto"}, "reads a cache of int8 or fp8, not auto"),
        ({"num_heads": 72}, "at most 8 heads share a KV head"),
        ({"num_heads": 3, "num_kv_heads": 3}, "3 KV heads are an odd number"),
        ({"head_dim": 80, "head_dim_v": 80}, "has heads of 64 and 128, not 80 and 80"),
        ({"dtype": "float32"}, "no kernel for dtype float32"),
        ({"block_size": 8}, "blocks of 8 are not whole tiles of 16 tokens"),
        ({"window": 100}, "has no window, soft cap or sinks"),
    ],
)
def test_what_the_kernel_does_not_compute_is_refused_by_its_reason(
    changed: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inferplane_cuda.attention.coded.compiler_problem", lambda: "")
    assert CodedAttention.supports(SPEC, Capabilities(fp8="e4m3fn")) == ()
    assert CodedAttention.supports(replace(SPEC, **changed), Capabilities(fp8="e4m3fn")) == (told,)


def test_devices_without_fp8_and_without_a_compiler_are_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("inferplane_cuda.attention.coded.compiler_problem", lambda: "no compiler")
    assert CodedAttention.supports(SPEC, Capabilities()) == (
        "needs the instructions for fp8 of sm_89 and later", "no compiler",
    )  # fmt: skip


@needs_card
@needs_compiler
@pytest.mark.parametrize("kv_dtype", ["fp8", "int8"])
@pytest.mark.parametrize(
    ("heads", "dim", "contexts"),
    [
        ((32, 8), 128, [1, 15, 16, 17, 500, 3001, 70, 64]),
        ((6, 2), 64, [0, 1, 250, 9000]),
        ((16, 8), 128, [12000]),
    ],
)
def test_decodes_are_those_of_float64_and_codes_those_of_the_core(
    heads: tuple[int, int],
    dim: int,
    contexts: list[int],
    kv_dtype: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    from attention_cases import coded, error, expected, make_case

    from inferplane.execution.torch_kv_store import PagedKV

    monkeypatch.setattr("inferplane_cuda.attention.coded._FEW", 0)
    torch.manual_seed(len(contexts))
    case = make_case(
        heads, [1] * len(contexts), contexts, dim=dim, kv_dtype=kv_dtype, backend=CodedAttention
    )
    kv = case.kv
    slots = torch.from_numpy(case.batch.slots[0]).cuda()
    plain = PagedKV(
        *(torch.zeros(9, 16, heads[1], dim, device="cuda") for _ in range(2)), "nhd", 16
    )
    fresh = coded(plain, kv_dtype)
    fresh.write(torch.arange(len(slots), device="cuda"), case.k, case.v)
    for _ in range(3):
        assert error(case.run(), expected(case)) < 3e-3
    for mine, theirs in ((kv.keys, fresh.keys), (kv.values, fresh.values)):
        kept = mine.codes.flatten(0, 1)[slots.long()]
        assert torch.equal(kept, theirs.codes.flatten(0, 1)[: len(slots)])
        scales = mine.scales.flatten(0, 1)[slots.long()]
        assert torch.equal(scales, theirs.scales.flatten(0, 1)[: len(slots)])
