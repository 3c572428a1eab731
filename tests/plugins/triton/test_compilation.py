"""Every kernel compiles for every architecture without a device: matrix instructions used, no
register spilled, on-chip memory within the part's limit."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels cannot be compiled", allow_module_level=True)


@dataclass(frozen=True)
class Arch:
    """A part's limits, and how its assembly shows a matrix instruction."""

    target: tuple[str, Any, int]
    kind: str
    matrix: str
    shared_bytes: int

    @property
    def small(self) -> bool:
        """Gets the smaller tiles, as `tuning.py` decides."""
        return self.kind == "amdgcn"


ARCHES = {
    "sm_90": Arch(("cuda", 90, 32), "ptx", r"wgmma\.mma_async|mma\.sync", 232448),
    "sm_100": Arch(("cuda", 100, 32), "ptx", r"tcgen05\.mma|mma\.sync", 232448),
    "gfx942": Arch(("hip", "gfx942", 64), "amdgcn", r"v_mfma_", 65536),
    "gfx950": Arch(("hip", "gfx950", 64), "amdgcn", r"v_mfma_", 163840),
    "gfx1100": Arch(("hip", "gfx1100", 32), "amdgcn", r"v_wmma_", 65536),
    "gfx1201": Arch(("hip", "gfx1201", 32), "amdgcn", r"v_wmma_", 65536),
}
OLDER = {
    "sm_75": Arch(("cuda", 75, 32), "ptx", r"mma\.sync", 65536),
    "sm_80": Arch(("cuda", 80, 32), "ptx", r"mma\.sync", 166912),
    "sm_89": Arch(("cuda", 89, 32), "ptx", r"mma\.sync", 101376),
}
"""Where only conversions of newer parts, and what takes much on-chip memory, could fail."""


@dataclass(frozen=True)
class Case:
    """One kernel with types for its pointers and values for its constants."""

    function: str
    constants: Mapping[str, object]
    types: Mapping[str, str] = field(default_factory=dict)
    matrix: bool = False
    options: Mapping[str, int] = field(default_factory=lambda: {"num_warps": 4})
    small_options: Mapping[str, int] | None = None
    small_constants: Mapping[str, object] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    """Parts whose instructions it needs; () = all."""


HEADS = {
    "KV_HEADS": 8, "GROUP": 4, "HEAD": 128, "K_PAD": 128, "V_HEAD": 128, "V_PAD": 128, "PAGE": 16,
    "K_BLOCK": 16384, "V_BLOCK": 16384, "K_STATIC": False, "V_STATIC": False, "LARGEST": 0,
    "CAP": False, "SINKS": False, "UPCAST": False,
}  # fmt: skip
PLACES = {name: "*bf16" for name in ("k_scales", "v_scales", "k_static", "v_static")}
INTS = {name: "*i32" for name in ("items", "tiles", "tables", "slots", "arrivals", "out_ids")}
WIDE = {name: "*fp32" for name in ("part_ptr", "stat_ptr", "cos_ptr", "sin_ptr", "weight_ptr")}
WIDE |= {name: "*fp32" for name in ("q_weight_ptr", "k_weight_ptr", "norm_ptr")}
SCALARS = {name: "fp32" for name in ("scale", "softcap", "eps")}
EXPERTS = {
    "EXPERTS": 128, "E_PAD": 128, "SIZE": 2048, "INNER": 768, "ROWS": 128, "COLS": 128, "STEP": 64,
    "UPCAST": False,
}  # fmt: skip
ROUTED = {"ids": "*i32", "order": "*i32", "counts": "*i32", "share_ptr": "*fp32"}
STACKED = {
    "CHOICES": 8, "EXPERTS": 128, "E_PAD": 128, "INPUTS": 2048, "WIDE": 8, "ROWS": 16, "COLS": 64,
    "STEP": 64, "DENSE": False, "OFFSET": True, "UPCAST": False,
}  # fmt: skip
STREAMED = {
    "INPUTS": 4096, "M": 1, "OFFSET": False, "BIAS": False, "LANES": 128,
}  # fmt: skip
ROUNDED = {"ROUND": True, "GIVEN": False, "BY_BITS": False}
TILED = {
    "INPUTS": 4096, "WIDE": 8, "BM": 64, "BN": 64, "OFFSET": True, "BIAS": False,
    "UPCAST": False,
}  # fmt: skip
CODES = {"scale_ptr": "*fp32", "offset_ptr": "*fp32", "given_ptr": "*fp32", "words_ptr": "*i32"}
WEIGHED = {"VOCAB": 151936, "SPAN": 8192, "BLOCK": 256, "UNROLL": 8}
DRAWN_FROM = {
    "VOCAB": 151936, "SPAN": 8192, "SPLITS": 19, "SPLIT_PAD": 32, "BINS": 32, "MOST": 1024,
}  # fmt: skip
NEAR = {name: DRAWN_FROM[name] for name in ("VOCAB", "SPLITS", "SPLIT_PAD", "MOST")}
DRAWN = {name: "*fp32" for name in ("logits", "temperatures", "top_ps", "min_ps")}
DRAWN |= {name: "*i32" for name in ("ids", "bests", "top_ks", "counts", "bin_counts", "cursors")}
DRAWN |= {name: "*i64" for name in ("seeds", "positions", "candidates")}
DRAWN |= {name: "*fp64" for name in ("masses", "bin_masses", "heavies")}
DRAWN |= {name: "*fp64" for name in ("before", "after", "known", "later")}
CODED = {"K_BLOCK": 16640, "V_BLOCK": 16640, "K_STATIC": False, "V_STATIC": True}
CACHED = {name: "*i8" for name in ("k_cache", "v_cache")}
PARTS = ("sm_80", "sm_90", "gfx942", "gfx950", "gfx1100", "gfx1201")
AMD = ("gfx942", "gfx950", "gfx1100", "gfx1201")
DRAWING = ("sm_80", "sm_90", "sm_100", *AMD)
OWN_FP8 = ("sm_90", "sm_100", "gfx950", "gfx1201")
"""Parts that convert to e4m3fn and from it themselves."""
LOGITS = {name: "*fp32" for name in ("logits", "out", "values", "counts", "penalties")}
LOGITS |= {name: "*i32" for name in ("bitmask", "rows", "ids")}
CASES = {
    "decode": Case(
        "decode:decode_items",
        {**HEADS, "MEMBERS": 4, "ROWS": 16, "TILE": 64, "NEW": True},
        matrix=True,
        options={"num_warps": 4, "num_stages": 3},
        small_options={"num_warps": 4, "num_stages": 1},
    ),
    "prefill": Case(
        "prefill:prefill_tiles",
        {**HEADS, "ROWS": 128, "TILE": 64, "WINDOW": 0},
        matrix=True,
        options={"num_warps": 8, "num_stages": 3},
        small_options={"num_warps": 4, "num_stages": 1},
        small_constants={"ROWS": 64, "TILE": 32},
    ),
    "windowed prefill with sinks": Case(
        "prefill:prefill_tiles",
        {
            **HEADS, "GROUP": 8, "HEAD": 64, "K_PAD": 64, "V_HEAD": 64, "V_PAD": 64, "ROWS": 64,
            "TILE": 32, "WINDOW": 128, "SINKS": True,
        },
        matrix=True,
        options={"num_warps": 4, "num_stages": 1},
    ),
    "windowed prefill with a cap": Case(
        "prefill:prefill_tiles",
        {**HEADS, "ROWS": 32, "TILE": 32, "WINDOW": 4096, "CAP": True},
        matrix=True,
        options={"num_warps": 4, "num_stages": 1},
    ),
    **{
        f"decode, {kind} cache": Case(
            "decode:decode_items",
            {
                **HEADS, **CODED, "MEMBERS": 4, "ROWS": 16, "TILE": 64, "NEW": True,
                "LARGEST": largest,
            },
            CACHED,
            matrix=True,
            options={"num_warps": 4, "num_stages": 3},
            small_options={"num_warps": 4, "num_stages": 1},
            only=PARTS,
        )
        for kind, largest in (("int8", 127), ("fp8", 448))
    },
    "prefill, fp8 cache": Case(
        "prefill:prefill_tiles",
        {
            **HEADS, **CODED, "ROWS": 64, "TILE": 64, "WINDOW": 0, "LARGEST": 448,
        },
        CACHED,
        matrix=True,
        options={"num_warps": 4, "num_stages": 2},
        small_options={"num_warps": 4, "num_stages": 1},
        small_constants={"ROWS": 64, "TILE": 32},
        only=PARTS,
    ),
    "write, fp8 cache": Case(
        "cache:write_codes",
        {
            "HEADS": 8, "HEADS_PAD": 8, "HEAD": 128, "K_PAD": 128, "V_HEAD": 128, "V_PAD": 128,
            "PAGE": 16, **CODED, "LARGEST": 448,
        },
        CACHED,
        only=("sm_80", *AMD),
    ),
    "write": Case(
        "cache:write_slots",
        {
            "K_SIZE": 1024, "V_SIZE": 1024, "K_BLOCK": 1024, "V_BLOCK": 1024,
        },
    ),
    "list pages": Case(
        "cache:list_pages",
        {"BLOCK": 128},
        {"starts": "*i32", "out": "*i32"},
        options={"num_warps": 1},
    ),
    "rms_norm": Case("norm:rms_norm_rows", {"SIZE": 4096, "BLOCK": 4096}),
    "add_rms_norm": Case("norm:add_rms_norm_rows", {"SIZE": 4096, "BLOCK": 4096}),
    "silu_mul": Case("activation:gated_rows", {"SIZE": 14336, "GELU": False, "BLOCK": 1024}),
    "norm_rotary": Case(
        "rotary:rotate_heads",
        {
            "HEAD": 128, "HALF": 64, "HEADS": 4, "BLOCK": 64, "TAIL": 0, "INTERLEAVED": False,
            "NORM": True,
        },
        options={"num_warps": 1},
    ),
    "stream": Case(
        "stream:stream_rows",
        {"INPUTS": 3072, "M": 1, "ROWS": 8, "COLS": 1024, "BIAS": False, "STAGES": 0},
    ),
    "stream through on-chip memory": Case(
        "stream:stream_rows",
        {
            "INPUTS": 14336, "M": 1, "ROWS": 8, "COLS": 1024, "BIAS": False, "STAGES": 3,
        },
    ),
    "stream with the norm": Case(
        "stream:stream_normed",
        {"INPUTS": 1024, "PAD": 1024, "M": 1, "ROWS": 8, "ADD": True, "BIAS": False},
    ),
    "stream with the gate": Case(
        "stream:stream_gated", {"INPUTS": 3072, "M": 1, "ROWS": 4, "COLS": 1024}
    ),
    "int4 streamed": Case(
        "quantized:stream_words", {**STREAMED, "GROUP": 128, "ROWS": 4}, CODES
    ),
    "int4 streamed, four rows, groups of 32 with offsets": Case(
        "quantized:stream_words",
        {**STREAMED, "GROUP": 32, "ROWS": 2, "M": 4, "OFFSET": True},
        CODES,
    ),
    "fp8 streamed": Case(
        "quantized:stream_bytes",
        {**STREAMED, **ROUNDED, "GROUP": 4096, "ROWS": 8},
        {**CODES, "codes_ptr": "*fp8e4nv"},
        only=OWN_FP8,
    ),
    "int8 streamed, groups": Case(
        "quantized:stream_bytes",
        {**STREAMED, **ROUNDED, "ROUND": False, "GROUP": 128, "ROWS": 8},
        {**CODES, "codes_ptr": "*i8"},
    ),
    "int4 tiles": Case(
        "quantized:tile_codes",
        {**TILED, "GROUP": 128, "BYTES": False},
        {**CODES, "codes_ptr": "*i32"},
        matrix=True,
        options={"num_warps": 4, "num_stages": 3},
        small_options={"num_warps": 8, "num_stages": 1},
    ),
    "int4 tiles of few rows": Case(
        "quantized:tile_codes",
        {**TILED, "GROUP": 32, "BM": 16, "BYTES": False},
        {**CODES, "codes_ptr": "*i32"},
        matrix=True,
        options={"num_warps": 4, "num_stages": 3},
        small_options={"num_warps": 4, "num_stages": 1},
    ),
    "int8 tiles of many rows": Case(
        "quantized:tile_codes",
        {**TILED, "GROUP": 4096, "BYTES": True},
        {**CODES, "codes_ptr": "*i8"},
        matrix=True,
        options={"num_warps": 4, "num_stages": 3},
        small_options={"num_warps": 8, "num_stages": 1},
    ),
    "int8 tiles of few rows, groups of 32": Case(
        "quantized:tile_codes",
        {**TILED, "GROUP": 32, "BM": 16, "BYTES": True},
        {**CODES, "codes_ptr": "*i8"},
        matrix=True,
        options={"num_warps": 4, "num_stages": 3},
        small_options={"num_warps": 4, "num_stages": 1},
    ),
    "int4 widened": Case(
        "quantized:widen_codes",
        {"INPUTS": 4096, "GROUP": 128, "WIDE": 64, "ROWS": 8, "BYTES": False, "OFFSET": True},
        {**CODES, "codes_ptr": "*i32"},
    ),
    "fp8 rows": Case(
        "quantized:round_rows",
        {"INPUTS": 14336, "PAD": 16384, "GIVEN": False, "BY_BITS": False},
        {"q_ptr": "*fp8e4nv", "given_ptr": "*fp32", "scale_ptr": "*fp32"},
        options={"num_warps": 16},
        only=OWN_FP8,
    ),
    "int8 tiles": Case(
        "quantized:tile_int8",
        {"INPUTS": 4096, "BM": 64, "BN": 64, "BK": 128, "BIAS": False},
        {
            "x_ptr": "*i8", "w_ptr": "*i8", "x_scale_ptr": "*fp32", "w_scale_ptr": "*fp32",
            "bias_ptr": "*fp32",
        },
        matrix=True,
    ),
    "argmax parts": Case(
        "sampling:argmax_parts",
        {"VOCAB": 151936, "SPAN": 8192, "BLOCK": 2048},
        {"logits": "*fp32", "parts": "*i64"},
    ),
    "argmax": Case(
        "sampling:argmax_rows", {"SPLITS": 19, "BLOCK": 32}, {"parts": "*i64", "out": "*i32"}
    ),
    "near draw, weighing": Case(
        "near:weigh_near", {"VOCAB": 151936, "SPAN": 8192, "BLOCK": 512}, DRAWN, only=DRAWING,
    ),
    "near draw, gathering": Case(
        "near:gather_near", {**NEAR, "SPAN": 8192, "BLOCK": 2048}, DRAWN,
        options={"num_warps": 8}, only=DRAWING,
    ),
    "near draw": Case("near:draw_near", NEAR, DRAWN, only=DRAWING),
    "draw, weighing": Case(
        "draw:weigh_rows", WEIGHED, DRAWN, options={"num_warps": 8},
        small_constants={"UNROLL": 1}, only=DRAWING,
    ),
    **{
        f"draw, refining, {kind}": Case(
            "draw:refine_rows", {**WEIGHED, **DRAWN_FROM, "LEVELS": levels, "ASK": ask}, DRAWN,
            options={"num_warps": 8}, small_constants={"UNROLL": 1}, only=DRAWING,
        )
        for kind, levels, ask in (
            ("first", True, True), ("again", True, False), ("bins", False, False),
        )
    },
    "draw, gathering": Case(
        "draw:gather_rows", {**DRAWN_FROM, "BLOCK": 2048}, DRAWN, options={"num_warps": 8},
        only=DRAWING,
    ),
    "experts, choosing": Case(
        "experts:choose_experts",
        {
            "EXPERTS": 128, "E_PAD": 128, "CHOICES": 8, "C_PAD": 8, "RENORMALIZE": True,
            "SIGMOID": False,
        },
        ROUTED | {"weight_ptr": "*fp32"}, options={"num_warps": 1},
    ),
    "experts, sorting": Case("experts:sort_pairs", {"BLOCK": 1024}, ROUTED),
    "experts, few rows": Case(
        "experts:gate_experts", {**EXPERTS, "ROWS": 16, "STEP": 128, "CHOICES": 8, "GELU": False},
        ROUTED, matrix=True, options={"num_warps": 4, "num_stages": 3},
        small_options={"num_warps": 4, "num_stages": 1}, small_constants={"STEP": 64},
    ),
    "experts, many rows": Case(
        "experts:gate_experts", {**EXPERTS, "CHOICES": 8, "GELU": False}, ROUTED, matrix=True,
        options={"num_warps": 8, "num_stages": 3}, small_constants={"ROWS": 64, "COLS": 64},
        small_options={"num_warps": 4, "num_stages": 1},
    ),
    "experts, down": Case(
        "experts:lower_experts", EXPERTS, ROUTED, matrix=True,
        options={"num_warps": 8, "num_stages": 3}, small_constants={"ROWS": 64, "COLS": 64},
        small_options={"num_warps": 4, "num_stages": 1},
    ),
    "experts, summing": Case(
        "experts:sum_experts", {"CHOICES": 8, "SIZE": 2048, "BLOCK": 1024}, ROUTED
    ),
    **{
        f"stacked {kind}": Case(
            "stacks:multiply_stack", {**STACKED, "GROUP": group, "BYTES": is_wide},
            {**CODES, **ROUTED, "weight_ptr": pointer}, matrix=True,
            options={"num_warps": 4, "num_stages": 3},
            small_options={"num_warps": 4, "num_stages": 1},
        )
        for kind, group, is_wide, pointer in (
            ("int4", 128, False, "*i32"), ("int4, groups of 32", 32, False, "*i32"),
            ("int8", 2048, True, "*i8"),
        )
    },
    "stacked fp8": Case(
        "stacks:multiply_stack", {**STACKED, "GROUP": 128, "BYTES": True, "OFFSET": False},
        {**CODES, **ROUTED, "weight_ptr": "*fp8e4nv"}, matrix=True, only=OWN_FP8,
        options={"num_warps": 4, "num_stages": 3}, small_options={"num_warps": 4, "num_stages": 1},
    ),
    "stacked, widened": Case(
        "stacks:multiply_stack",
        {**STACKED, "GROUP": 128, "DENSE": True, "BYTES": False, "ROWS": 128, "COLS": 128},
        {**CODES, **ROUTED, "weight_ptr": "*bf16"}, matrix=True,
        options={"num_warps": 8, "num_stages": 3}, small_constants={"ROWS": 64, "COLS": 64},
        small_options={"num_warps": 4, "num_stages": 1},
    ),
    "draw, settling": Case("draw:settle_rows", DRAWN_FROM, DRAWN, only=DRAWING),
    "draw, searching": Case(
        "search:search_rows", {"VOCAB": 151936, "BLOCK": 512, "UNROLL": 4}, DRAWN,
        options={"num_warps": 16}, small_constants={"BLOCK": 1024, "UNROLL": 1},
        only=DRAWING,
    ),
    "masked logits": Case(
        "logits:copy_masked", {"VOCAB": 151936, "MASKED": True, "BLOCK": 2048}, LOGITS
    ),
    "bias": Case("logits:add_bias", {"VOCAB": 151936, "BLOCK": 256}, LOGITS),
    "penalties": Case("logits:penalise", {"VOCAB": 151936, "BLOCK": 256}, LOGITS),
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Compiled programs of this test stay out of the user's cache."""
    folder = tmp_path_factory.mktemp("triton")
    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(folder)
        yield folder


def compiled(case: Case, arch: Arch) -> Any:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as compile_source

    module, _, name = case.function.partition(":")
    function = getattr(import_module(f"inferplane_triton.device.{module}"), name)
    constants = {**case.constants, **(case.small_constants if arch.small else {})}
    constants = {name: constants[name] for name in function.arg_names if name in constants}
    part, coded = str(arch.target[1]), constants.get("LARGEST", 0)
    if "TILE" in constants and part.startswith("gfx11"):
        constants["TILE"] = 16
        if coded and name == "prefill_tiles":
            constants["ROWS"] = 16
    if coded and name == "decode_items" and part.startswith("gfx12"):
        constants["TILE"] = 32
    if "PTX" in function.arg_names:
        constants["PTX"] = not arch.small
    if "EARLY" in function.arg_names:
        constants["EARLY"] = not arch.small and arch.target[1] >= 90
    types = {**PLACES, **INTS, **WIDE, **SCALARS, **case.types}
    signature, hints = {}, {}
    for place, argument in enumerate(function.arg_names):
        pointer = argument.endswith(("_ptr", "_cache")) or types.get(argument, "").startswith("*")
        if argument in constants:
            signature[argument] = "constexpr"
            continue
        signature[argument] = types.get(argument, "*bf16" if pointer else "i32")
        if pointer or argument.endswith("_stride"):
            hints[(place,)] = [["tt.divisibility", 16]]
    options = case.small_options if arch.small and case.small_options else case.options
    if name == "search_rows" and part.startswith("gfx9"):  # twice the threads in a warp
        options = {"num_warps": 8}
    source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=hints)
    return compile_source(source, target=GPUTarget(*arch.target), options=dict(options))


def launched() -> set[str]:
    """Every kernel of the package that no other kernel calls, as "module:function"."""
    from triton.runtime import JITFunction

    found, called = {}, set()
    for module in iter_modules(import_module("inferplane_triton.device").__path__):
        full = f"inferplane_triton.device.{module.name}"
        names = vars(import_module(full))
        kernels = {name: x for name, x in names.items() if isinstance(x, JITFunction)}
        for name, kernel in kernels.items():
            if kernel.__module__ == full:
                found[id(kernel)] = f"{module.name}:{name}"
                calls = (x.func for x in ast.walk(ast.parse(kernel.src)) if isinstance(x, ast.Call))
                used = {x.id for x in calls if isinstance(x, ast.Name)}
                called |= {id(kernels[name]) for name in used & kernels.keys()}
    return {name for kernel, name in found.items() if kernel not in called}


def test_no_kernel_is_forgotten_on_any_amd_part() -> None:
    compiled_for: dict[str, set[str]] = {kernel: set() for kernel in launched()}
    for case in CASES.values():
        compiled_for[case.function] |= set(case.only or ARCHES)
    excused = {"quantized:round_rows": {"gfx942", "gfx1100"}}  # no fp8 of e4m3fn, so no launch
    for kernel, parts in compiled_for.items():
        assert set(AMD) - parts == excused.get(kernel, set()), kernel


EXPERT_SIZES = [
    (arch, kind, rows)
    for arch in ("sm_75", "sm_89", "sm_90", "gfx942", "gfx1100")
    for kind in ("fp16", "fp32")
    for rows in (1, 500)
]


@pytest.mark.parametrize(("arch", "kind", "rows"), EXPERT_SIZES)
def test_experts_of_any_dtype_and_number_of_rows_fit_the_part(
    arch: str, kind: str, rows: int
) -> None:
    from inferplane_triton.tuning import Target, expert_tuning

    part = {**ARCHES, **OLDER}[arch]
    found = Target(part.target[0], str(part.target[1]), 80, part.shared_bytes)
    tuning = expert_tuning(found, rows, 4 if kind == "fp32" else 2)
    sizes = {"ROWS": tuning.rows, "COLS": tuning.cols, "STEP": tuning.inputs}
    options = {"num_warps": tuning.warps, "num_stages": tuning.stages}
    pointers = ("x_ptr", "w13_ptr", "inner_ptr", "w2_ptr", "out_ptr")
    for function, more in (("gate", {"CHOICES": 8, "GELU": False}), ("lower", {})):
        case = Case(
            f"experts:{function}_experts", {**EXPERTS, **sizes, **more},
            {**ROUTED, **dict.fromkeys(pointers, f"*{kind}")}, options=options,
        )  # fmt: skip
        program = compiled(case, part)
        assert program.metadata.shared <= part.shared_bytes
        if part.kind == "amdgcn":
            for counter in ("vgpr_spill_count", "sgpr_spill_count"):
                found_spills = re.findall(rf"\.{counter}:\s+(\d+)", program.asm["amdgcn"])
                assert set(found_spills) == {"0"}, counter


PAIRS = [(name, arch) for name, case in CASES.items() for arch in case.only or ARCHES]


@pytest.mark.parametrize(("name", "arch"), PAIRS)
def test_a_kernel_compiles_within_the_limits_of_the_part(name: str, arch: str) -> None:
    case, part = CASES[name], {**ARCHES, **OLDER}[arch]
    program = compiled(case, part)
    text = program.asm[part.kind]
    assert program.metadata.shared <= part.shared_bytes
    if case.matrix:
        assert re.search(part.matrix, text)
    if part.kind == "amdgcn":
        for counter in ("vgpr_spill_count", "sgpr_spill_count", "private_segment_fixed_size"):
            assert set(re.findall(rf"\.{counter}:\s+(\d+)", text)) == {"0"}, counter
