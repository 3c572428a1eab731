"""A step of one token noted on a tape, and walked, gives what its ops give one by one."""

import ctypes
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from inferplane.interfaces import CanonicalWeight, Capabilities, LinearSite, QuantScheme
from inferplane.quantization.reference import dequantize, requantize_input
from inferplane_cuda.persistent import ops
from inferplane_cuda.persistent.instructions import (
    LEFT_NORMED,
    LEFT_OUT,
    LEFT_TOTAL,
    NO_HEADS,
    WORDS,
    Before,
    Heads,
    Kind,
    Matrix,
    Mode,
    Weights,
)
from inferplane_cuda.persistent.launcher import BRINGERS, SOURCES, THREADS, Launcher, variant
from inferplane_cuda.persistent.tape import AttentionCall, NotTapedError, Tape, tape_for
from inferplane_cuda.programs import Program, compile_source, compiler_problem, read_source
from inferplane_cuda.quantization import packing
from inferplane_triton.attention.work import decode_items

Words: TypeAlias = npt.NDArray[np.uint32]
_TYPES = {1: torch.float16, 0: torch.bfloat16}
_LOG2_E = 1.4426950408889634
_EPS = 1e-5
needs_compiler = pytest.mark.skipif(bool(compiler_problem()), reason=compiler_problem())
needs_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


class PlainWalker:
    """Walks instructions in plain torch, by the addresses they name: dense weights, host memory."""

    blocks = 3

    def __init__(self) -> None:
        self.launches: list[list[list[int]]] = []
        self._words = np.zeros(0, np.uint32)

    def begin(self) -> None:
        """A step begins."""

    def launch(
        self, rows: Sequence[list[int]], weights: Weights, heads: Heads, longest: int, left: int
    ) -> None:
        """One instruction after the other."""
        self._words = np.zeros(left, np.uint32)
        assert weights.CODES == 16
        self.launches.append([list(row) for row in rows])
        dtype = _TYPES[weights.HALF]
        for row in rows:
            kind = row[0] & 255
            if kind == Kind.ATTEND:
                _attend(row, heads, dtype, self._words)
                continue
            x = _before(row, dtype, self._words)
            assert x.numel() <= longest
            if kind == Kind.STREAM:
                outputs, inputs = row[11] & 0xFFFFFFFF, row[11] >> 32
                product = (
                    x.float() @ _read(row[4], outputs * inputs, dtype).view(outputs, -1).float().T
                )
                if row[7]:
                    product += _read(row[7], outputs, dtype).float()
                if row[0] >> 16 & 255 == Mode.PAIRED:
                    both = product.to(dtype).float()
                    half = outputs // 2
                    product = torch.nn.functional.silu(both[:half]) * both[half:]
                _write(row[8], product.to(dtype))
                _leave(row, LEFT_OUT, product.to(dtype), self._words)


class EmulatedWalker:
    """Walks by the kernel itself on a processor, lane by lane.

    `own`: with the matrix instructions of Hopper.
    """

    def __init__(
        self, make: Callable[..., Program], blocks: int, eager: bool = False, own: bool = True
    ) -> None:
        self.blocks = blocks
        self._make = make
        self._eager = eager
        self._own = own
        self._counters = torch.zeros(2, dtype=torch.int32)

    def begin(self) -> None:
        """A step begins."""

    def launch(
        self, rows: Sequence[list[int]], weights: Weights, heads: Heads, longest: int, left: int
    ) -> None:
        """As `Launcher` does."""
        generation = 9 if self._own else 8
        defined = variant(weights, heads, longest, len(rows), 227 << 10, generation)
        program = self._make("inferplane_cuda", SOURCES, defined, self._own, self._eager)
        table = torch.tensor(rows, dtype=torch.int64)
        words = torch.zeros(max(left, 1), dtype=torch.int32)
        arguments = (table, self._counters, words, len(rows))
        grid = self.blocks, 1
        program.launch(program.function("walk"), grid, THREADS + BRINGERS, arguments)


def _before(row: list[int], dtype: torch.dtype, words: Words) -> Tensor:
    before, inputs = row[0] >> 8 & 255, row[11] >> 32
    x = _source(row[1], inputs, dtype, words)
    if before == Before.NORM:
        if row[2]:
            x = (x.float() + _source(row[2], inputs, dtype, words).float()).to(dtype)
        if row[9]:
            _write(row[9], x)
            _leave(row, LEFT_TOTAL, x, words)
        wide = x.float()
        scale = (wide.square().mean() + _float(row[12])).rsqrt()
        x = (wide * scale * _read(row[3], inputs, torch.float32)).to(dtype)
    elif before == Before.SILU:
        both = _source(row[1], 2 * inputs, dtype, words).float()
        x = (torch.nn.functional.silu(both[:inputs]) * both[inputs:]).to(dtype)
    if row[10]:
        _write(row[10], x)
        _leave(row, LEFT_NORMED, x, words)
    return x


def _attend(row: list[int], heads: Heads, dtype: torch.dtype, words: Words) -> None:
    queries, size = heads.KV_HEADS * heads.MEMBERS, heads.SIZE
    q, k, v = (
        _source(at, count * size, dtype, words).view(count, size)
        for at, count in zip(row[1:4], (queries, heads.KV_HEADS, heads.KV_HEADS), strict=True)
    )
    q, k = _turned(q, heads, row[14], row), _turned(k, heads, row[15], row)
    items = _read(row[10], (row[0] >> 32) * 8, torch.int32).view(-1, 8)
    position = int(items[:, 6].max())
    table = _read(row[11], position // heads.PAGE + 1, torch.int32).tolist()
    lines = [table[p // heads.PAGE] * heads.PAGE + p % heads.PAGE for p in range(position + 1)]
    width = heads.KV_HEADS * size
    for cache, new in ((row[4], k), (row[5], v)):
        _write(cache + 2 * width * lines[-1], new.flatten())
    held = [
        torch.stack([_read(cache + 2 * width * line, width, dtype) for line in lines])
        for cache in (row[4], row[5])
    ]
    keys, values = (x.view(-1, heads.KV_HEADS, size).float() for x in held)
    grouped = q.float().view(heads.KV_HEADS, heads.MEMBERS, size)
    scores = torch.einsum("kmd,tkd->kmt", grouped, keys) * _float(heads.SCALE) * np.log(2.0)
    out = torch.einsum("kmt,tkd->kmd", scores.softmax(-1), values)
    _write(row[6], out.to(dtype).flatten())
    _leave(row, LEFT_OUT, out.to(dtype).flatten(), words)


def _turned(x: Tensor, heads: Heads, weight: int, row: list[int]) -> Tensor:
    if heads.HEAD_NORM:
        wide = x.float()
        scale = (wide.square().mean(-1, keepdim=True) + _float(heads.EPS)).rsqrt()
        x = (wide * scale * _read(weight, heads.SIZE, torch.float32)).to(x.dtype)
    pairs = heads.PAIRS
    if not pairs:
        return x
    cos, sin = (_read(at, pairs, torch.float32) for at in (row[12], row[13]))
    a, b = x[:, :pairs].float(), x[:, pairs : 2 * pairs].float()
    turned = [a * cos - b * sin, b * cos + a * sin, x[:, 2 * pairs :].float()]
    return torch.cat(turned, 1).to(x.dtype)


def _float(bits: int) -> float:
    return float(struct.unpack("<f", struct.pack("<i", bits))[0])


def _source(said: int, count: int, dtype: torch.dtype, words: Words) -> Tensor:
    """What an instruction reads: a tensor, or words that another has left."""
    if not said & 1:
        return _read(said, count, dtype)
    found = words[said >> 1 : (said >> 1) + count]
    assert (found & 0xFFFF == 1).all()
    return torch.from_numpy((found >> 16).astype(np.uint16)).view(dtype)


def _leave(row: list[int], place: tuple[int, int], values: Tensor, words: Words) -> None:
    word, bit = place
    first = row[word] >> bit & 0xFFFFFFFF
    if first:
        bits = values.contiguous().view(torch.uint16).numpy().astype(np.uint32)
        words[first - 1 : first - 1 + len(bits)] = bits << 16 | 1


def _read(at: int, count: int, dtype: torch.dtype) -> Tensor:
    size = torch.empty(0, dtype=dtype).element_size()
    raw = (ctypes.c_uint8 * (count * size)).from_address(at)
    return torch.from_numpy(np.ctypeslib.as_array(raw).copy()).view(dtype)


def _write(at: int, values: Tensor) -> None:
    raw = values.contiguous().view(torch.uint8).numpy()
    ctypes.memmove(at, raw.ctypes.data, raw.nbytes)


@dataclass
class Layer:
    """Two layers' worth of weights and one sequence's cache, everything random."""

    hidden: int = 256
    inner: int = 320
    kv_heads: int = 2
    members: int = 3
    size: int = 64
    pairs: int = 32
    page: int = 16
    context: int = 37
    head_norm: bool = False
    dtype: torch.dtype = torch.bfloat16
    device: str = "cpu"
    scheme: QuantScheme | None = None
    """Of the matrices; None: 16 bits."""

    def __post_init__(self) -> None:
        self.packed: dict[str, Matrix] = {}
        queries, width = self.kv_heads * self.members, self.kv_heads * self.size
        outputs = queries * self.size + 2 * width
        self.qkv = self._random(outputs, self.hidden, by=self.hidden**-0.5)
        self.bias = self._random(outputs)
        self.o = self._random(self.hidden, queries * self.size, by=0.05)
        self.up = self._random(2 * self.inner, self.hidden, by=self.hidden**-0.5)
        self.down = self._random(self.hidden, self.inner, by=0.05)
        if self.scheme is not None:
            self._quantise(self.scheme)
        self.norms = [1 + self._random(self.hidden).float() / 4 for _ in range(2)]
        self.head_norms = tuple(1 + self._random(self.size).float() / 4 for _ in range(2))
        angles = torch.rand(1, self.pairs, device=self.device) * 6
        self.turn = angles.cos(), angles.sin()
        blocks = self.context // self.page + 1
        self.caches = [
            self._random(blocks + 3, self.page, self.kv_heads, self.size) for _ in range(2)
        ]
        self.table = torch.randperm(blocks + 3, device=self.device)[:blocks].int().view(1, -1)
        rows = decode_items(np.array([self.context]), None, 5, 16, 16)
        filled = np.full((len(rows) + 2, 8), -1, np.int32)
        filled[: len(rows)] = rows
        self.items = torch.from_numpy(filled).to(self.device)
        shape = len(filled), queries
        self.part = torch.zeros(*shape, self.size, device=self.device)
        self.stat = torch.zeros(*shape, 2, device=self.device)
        self.arrivals = torch.zeros(1, self.kv_heads, dtype=torch.int32, device=self.device)

    def _random(self, *shape: int, by: float = 1.0) -> Tensor:
        return (torch.randn(*shape, device=self.device) * by).to(self.dtype)

    def _quantise(self, scheme: QuantScheme) -> None:
        for name in ("qkv", "o", "up", "down"):
            outputs, inputs = getattr(self, name).shape
            made = _quantised(scheme, outputs, inputs, self.device)
            kinds = made.scales / 8, None if made.offsets is None else made.offsets / 8
            weight = CanonicalWeight(made.values, *kinds)
            bias = self.bias if name == "qkv" else None
            self.packed[name] = replace(_packed(weight, scheme), bias=bias)
            setattr(self, name, dequantize(weight, scheme))

    def run(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """By the plugin's ops, which note themselves on a tape."""
        tape = tape_for(x)
        assert tape is not None
        if residual is None:
            normed, residual = ops.rms_norm(x, self.norms[0], _EPS), x
        else:
            normed, residual = ops.add_rms_norm(x, residual, self.norms[0], _EPS)
        counts = [self.kv_heads * self.members, self.kv_heads, self.kv_heads]
        packed = self.packed
        if packed:
            qkv = tape.matrix(normed, packed["qkv"]).view(1, -1, self.size)
        else:
            qkv = ops.linear(normed, self.qkv, self.bias).view(1, -1, self.size)
        q, k, v = torch.split(qkv, counts, 1)
        if self.head_norm:
            q, k = ops.norm_rotary(q, k, *self.head_norms, _EPS, *self.turn, False)
        else:
            q, k = ops.rotary_embedding(q, k, *self.turn, False)
        out = torch.empty(1, counts[0] * self.size, dtype=self.dtype, device=self.device)
        pointers = (
            *self.caches, out, self.part, self.stat, self.arrivals, self.items, self.table,
        )  # fmt: skip
        heads = self.kv_heads, self.members, self.size
        scale = self.size**-0.5 * _LOG2_E
        tape.attend(q, k, v, AttentionCall(heads, self.page, scale, len(self.items), pointers))
        if packed:
            x = tape.matrix(out, packed["o"])
            normed, residual = ops.add_rms_norm(x, residual, self.norms[1], _EPS)
            gated = ops.silu_mul(tape.matrix(normed, packed["up"]))
            return tape.matrix(gated, packed["down"]), residual
        x, residual = ops.add_norm_linear(
            ops.linear(out, self.o, None), residual, self.norms[1], _EPS, self.up, None
        )
        return ops.silu_mul_linear(x, self.down, None), residual

    def plain(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """In torch, rounded where the ops round."""
        total = x if residual is None else (x.float() + residual.float()).to(self.dtype)
        normed = _norm(total, self.norms[0])
        qkv = self._times(normed, self.qkv, self.bias).view(-1, self.size)
        queries = self.kv_heads * self.members
        q, k, v = qkv[:queries], qkv[queries : queries + self.kv_heads], qkv[-self.kv_heads :]
        if self.head_norm:
            q, k = (_norm(y, w) for y, w in zip((q, k), self.head_norms, strict=True))
        q, k = self._rotated(q), self._rotated(k)
        lines = torch.arange(self.context, device=self.device)
        lines = self.table[0, lines // self.page] * self.page + lines % self.page
        keys, values = (cache.flatten(0, 1) for cache in self.caches)
        keys[lines[-1]], values[lines[-1]] = k, v
        grouped = q.double().view(self.kv_heads, self.members, -1)
        scores = torch.einsum("kmd,tkd->kmt", grouped, keys[lines].double()) * self.size**-0.5
        out = torch.einsum("kmt,tkd->kmd", scores.softmax(-1), values[lines].double())
        x = self._times(out.to(self.dtype).view(1, -1), self.o)
        total = (x.float() + total.float()).to(self.dtype)
        both = self._times(_norm(total, self.norms[1]), self.up).float()
        gated = torch.nn.functional.silu(both[:, : self.inner]) * both[:, self.inner :]
        return self._times(gated.to(self.dtype), self.down), total

    def _times(self, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        out = x.double() @ w.double().T
        return (out if b is None else out + b.double()).to(self.dtype)

    def _rotated(self, x: Tensor) -> Tensor:
        (cos, sin), pairs = self.turn, self.pairs
        a, b = x[:, :pairs].float(), x[:, pairs : 2 * pairs].float()
        turned = [a * cos - b * sin, b * cos + a * sin, x[:, 2 * pairs :].float()]
        return torch.cat(turned, 1).to(x.dtype)


def _norm(x: Tensor, w: Tensor) -> Tensor:
    wide = x.float()
    scale = (wide.square().mean(-1, keepdim=True) + _EPS).rsqrt()
    return (wide * scale * w).to(x.dtype)


def _both(layer: Layer, walker: PlainWalker | EmulatedWalker | Launcher) -> float:
    """How far two layers on a tape are from plain torch, and that the cache holds the same."""
    x = layer._random(1, layer.hidden)
    caches = [cache.clone() for cache in layer.caches]
    with Tape(walker):
        got = layer.run(*layer.run(x, None))
        final = ops.add_rms_norm(*got, layer.norms[0], _EPS)[0]
        doubled = final * 2  # torch itself, which must find everything done
    noted = [cache.clone() for cache in layer.caches]
    for cache, before in zip(layer.caches, caches, strict=True):
        cache.copy_(before)
    want = layer.plain(*layer.plain(x, None))
    total = (want[0].float() + want[1].float()).to(layer.dtype)
    expected = _norm(total, layer.norms[0]).double() * 2
    for here, there in zip(noted, layer.caches, strict=True):
        assert (here.double() - there.double()).norm() < 0.02 * there.double().norm()
    return float((doubled.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("head_norm", [False, True])
def test_two_layers_are_one_launch_with_the_results_of_their_ops(head_norm: bool) -> None:
    torch.manual_seed(7)
    walker = PlainWalker()
    assert _both(Layer(head_norm=head_norm), walker) < 0.02
    (rows,) = walker.launches
    kinds = [row[0] & 255 for row in rows]
    layer = [Kind.STREAM, Kind.ATTEND, Kind.STREAM, Kind.STREAM, Kind.STREAM]
    assert kinds == [*layer, *layer, Kind.NORM_ALONE]


def test_a_norm_without_a_matrix_behind_it_is_written_down() -> None:
    walker = PlainWalker()
    x, w = torch.randn(1, 64).bfloat16(), torch.rand(64)
    with Tape(walker):
        out = ops.rms_norm(x, w, _EPS)
        gated = ops.silu_mul(out)
    assert torch.equal(out, _norm(x, w))
    wide = out.float()
    assert torch.equal(gated, (torch.nn.functional.silu(wide[:, :32]) * wide[:, 32:]).bfloat16())


def test_a_normed_row_is_there_for_others_than_the_matrix_too() -> None:
    layer, walker = Layer(), PlainWalker()
    x = layer._random(1, layer.hidden)
    with Tape(walker):
        normed = ops.rms_norm(x, layer.norms[0], _EPS)
        ops.linear(normed, layer.qkv, None)
    assert torch.equal(normed, _norm(x, layer.norms[0]))


@pytest.mark.parametrize(
    "copy",
    [Tensor.float, lambda x: x.expand(2, -1).reshape(-1), lambda x: x.view(-1, 2).t().contiguous()],
)
def test_a_copy_comes_after_what_it_copies(copy: Callable[[Tensor], Tensor]) -> None:
    """In inference mode torch tells of `to`, `reshape` and `contiguous`, which may be views."""
    layer, walker = Layer(), PlainWalker()
    x = layer._random(1, layer.hidden)
    with torch.inference_mode(), Tape(walker):
        made = ops.linear(x, layer.o[:, : layer.hidden].contiguous(), None)
        copied = copy(made)
    assert torch.equal(copied, copy(made))


def test_views_launch_nothing() -> None:
    layer, walker = Layer(), PlainWalker()
    x = layer._random(1, layer.hidden)
    with torch.inference_mode(), Tape(walker):
        made = ops.linear(x, layer.o[:, : layer.hidden].contiguous(), None)
        for view in (made.to(made.dtype), made.reshape(-1), made.contiguous(), made.flatten()):
            assert view.data_ptr() == made.data_ptr()
        assert walker.launches == []


def test_a_rotation_that_torch_reads_is_refused() -> None:
    layer = Layer()
    q, k = layer._random(1, 6, 64), layer._random(1, 2, 64)
    with pytest.raises(NotTapedError, match="other than attention"), Tape(PlainWalker()):
        ops.rotary_embedding(q, k, *layer.turn, False)[0] + 1


def test_a_row_in_float32_is_left_to_others_after_what_was_noted() -> None:
    walker = PlainWalker()
    with Tape(walker):
        ops.rms_norm(torch.randn(1, 64).bfloat16(), torch.rand(64), _EPS)
        assert tape_for(torch.randn(1, 64)) is None
        assert len(walker.launches) == 1


def test_without_a_tape_ops_are_launched() -> None:
    assert tape_for(torch.randn(1, 64).bfloat16()) is None


def test_what_is_in_flight_fits_beside_row_and_instructions() -> None:
    for bytes_on_chip in (227 << 10, 300 << 10):
        found = variant(Weights(4, 0, 0, 128), NO_HEADS, 4096, 160, bytes_on_chip)
        taken = found["DEPTH"] * Weights(4, 0, 0, 128).slot_bytes()
        assert found["DEPTH"] >= 2
        assert taken + found["HELD"] + 160 * 8 * WORDS + 12 * 1024 <= bytes_on_chip


SCHEMES = {
    "16 bits": None,
    "int4 in groups": QuantScheme("int4", 128),
    "int4 in small groups with offsets": QuantScheme("int4", 32, offset=True),
    "int8 in groups with offsets": QuantScheme("int8", 64, offset=True),
    "int8 in small groups": QuantScheme("int8", 32),
    "int8": QuantScheme("int8"),
    "fp8 weights": QuantScheme("fp8_e4m3"),
    "fp8 by fp8": QuantScheme("fp8_e4m3", activation="fp8_e4m3"),
    "fp8 by fp8, one input scale": QuantScheme(
        "fp8_e4m3", activation="fp8_e4m3", activation_scale="static"
    ),
    "int8 by int8": QuantScheme("int8", activation="int8"),
}
SMALL_GROUPS = {
    "hidden": 576, "inner": 320, "members": 3, "kv_heads": 3,
    "scheme": QuantScheme("int4", 32, offset=True),
}  # fmt: skip
"""The default model's shape and scheme, with a smaller gate."""
_CAPS = Capabilities(compute_dtypes=("bfloat16", "float16"), fp8="e4m3fn")


def _weights(scheme: QuantScheme | None) -> Weights:
    from inferplane_cuda.quantization.stream import variant_of

    if scheme is None:
        return Weights(16, 0, 0)
    found = variant_of(scheme, "bfloat16", scheme.activation_scale == "static")
    return Weights(found.CODES, found.INPUT, found.HALF, found.GROUP, found.OFFSET, found.GIVEN)


@needs_compiler
@pytest.mark.parametrize("arch", ["sm_90a", "sm_100a"])
@pytest.mark.parametrize("name", SCHEMES)
def test_the_walk_compiles(name: str, arch: str) -> None:
    weights = _weights(SCHEMES[name])
    source = read_source("inferplane_cuda", SOURCES)
    for heads in (NO_HEADS, Heads(8, 4, 128, 64, 16, 1), Heads(2, 3, 64, 16, 16, 1, 1, 1)):
        defined = variant(weights, heads, 4096, 160, 163 << 10)
        assert compile_source(source, "walk.cu", defined, arch)


@needs_card
@needs_compiler
@pytest.mark.parametrize(
    "layer",
    [
        {},
        SMALL_GROUPS,
        {"dtype": torch.float16, "head_norm": True},
        {"hidden": 4096, "inner": 14336, "kv_heads": 8, "members": 4, "size": 128, "pairs": 64,
         "context": 700},
        {"hidden": 1024, "inner": 3072, "kv_heads": 8, "members": 2, "size": 128, "pairs": 64,
         "context": 1, "head_norm": True},
        {"members": 8, "size": 256, "pairs": 64, "context": 5000},
        {"members": 1, "context": 300, "page": 64},
    ],
)  # fmt: skip
def test_the_device_walks_as_torch_computes(layer: dict) -> None:
    torch.manual_seed(3)
    device = torch.device("cuda")
    launcher = Launcher(device)
    made = Layer(device="cuda", **layer)
    for _ in range(3):
        assert _both(made, launcher) < 0.02
    assert launcher.lists == 1


@pytest.mark.parametrize(
    ("layer", "blocks", "eager", "own"),
    [
        (SMALL_GROUPS, 3, False, True),
        ({}, 3, False, True),
        ({"dtype": torch.float16, "head_norm": True}, 2, True, True),
        ({"members": 8, "size": 128, "pairs": 64, "context": 150}, 2, False, False),
    ],
)
def test_every_lane_walks_as_torch_computes(
    layer: dict, blocks: int, eager: bool, own: bool, emulated: Callable[..., Program]
) -> None:
    torch.manual_seed(3)
    walker = EmulatedWalker(emulated, blocks, eager, own)
    assert _both(Layer(**layer), walker) < 0.02


@pytest.mark.parametrize("name", [name for name in SCHEMES if SCHEMES[name]])
def test_every_lane_multiplies_codes_as_float64_does(
    name: str, emulated: Callable[..., Program]
) -> None:
    """Two matrices a launch; inputs that are no whole panels, and more than one."""
    scheme = SCHEMES[name]
    assert scheme is not None
    few = 640 if scheme.group == 128 else 576
    for (outputs, inputs), eager in (((200, few), True), ((40, 4224), False)):
        weight = _quantised(scheme, outputs, inputs, "cpu")
        walker = EmulatedWalker(emulated, 2, eager)
        x, y = torch.randn(1, inputs).bfloat16(), torch.randn(1, inputs).bfloat16()
        with Tape(walker) as tape:
            matrix = _packed(weight, scheme)
            made = [tape.matrix(row, matrix) for row in (x, y)]
        exact = dequantize(weight, scheme).double().t()
        for row, got in zip((x, y), made, strict=True):
            want = requantize_input(row, scheme, weight.input_scale).double() @ exact
            assert float((got.double() - want).norm() / want.norm()) < 6e-3, (outputs, inputs)


def _packed(weight: CanonicalWeight, scheme: QuantScheme) -> Matrix:
    """As the kernels lay it down, without their product for many rows."""
    outputs, inputs = weight.values.shape
    given = weight.input_scale
    if scheme.activation:
        scales = weight.scales.float().flatten().contiguous()
        return Matrix(_weights(scheme), weight.values, outputs, inputs, scales, given=given)
    pack = packing.pack_nibbles if scheme.weight == "int4" else packing.pack_bytes
    kinds = [
        None if one is None else packing.pack_scales(one, torch.Size([outputs]))
        for one in (weight.scales, weight.offsets)
    ]
    return Matrix(_weights(scheme), pack(weight.values), outputs, inputs, *kinds)


@needs_card
@needs_compiler
@pytest.mark.parametrize("name", [name for name in SCHEMES if SCHEMES[name]])
def test_quantised_matrices_are_those_of_the_reference(name: str) -> None:
    from inferplane_cuda.quantization.kernels import StreamedFp8, StreamedInt8, StreamedWeights

    scheme = SCHEMES[name]
    launcher = Launcher(torch.device("cuda"))
    sizes = ((208, 256), (960, 576), (576, 1536), (16416, 640), (512, 14336), (6144, 4096))
    for outputs, inputs in sizes:
        if scheme.group and inputs % scheme.group:
            continue
        site = LinearSite(inputs, outputs, "bfloat16")
        kinds = (StreamedFp8, StreamedInt8, StreamedWeights)
        kind = next(k for k in kinds if not k.supports(scheme, site, _CAPS))
        kernel = kind(scheme, site, _Device())
        weight = _quantised(scheme, outputs, inputs)
        packed = kernel.repack(weight)
        x = torch.randn(1, inputs, device="cuda").bfloat16()
        with Tape(launcher) as tape:
            y = kernel.apply(x, packed)
            z = kernel.apply(x, packed)
        assert tape.instructions == 2
        given = None if weight.input_scale is None else weight.input_scale.cpu()
        rounded = requantize_input(x.cpu(), scheme, given).cuda()
        want = rounded.double() @ dequantize(weight, scheme).double().t()
        for got in (y, z):
            assert float((got.double() - want).norm() / want.norm()) < 6e-3, (outputs, inputs)
        launcher = Launcher(torch.device("cuda"))


@dataclass(frozen=True)
class _Device:
    torch_device: str = "cuda"


def _quantised(
    scheme: QuantScheme, outputs: int, inputs: int, device: str = "cuda"
) -> CanonicalWeight:
    groups = inputs // scheme.group if scheme.group else 1
    scales = (torch.rand(outputs, groups, device=device) + 0.5) / 100
    if scheme.weight == "fp8_e4m3":
        values = torch.randn(outputs, inputs, device=device).to(torch.float8_e4m3fn)
    else:
        most = 8 if scheme.weight == "int4" else 128
        values = torch.randint(-most, most, (outputs, inputs), device=device, dtype=torch.int8)
    offsets = torch.randn(outputs, groups, device=device) / 10 if scheme.offset else None
    given = torch.tensor([0.01], device=device) if scheme.activation_scale == "static" else None
    return CanonicalWeight(values, scales, offsets, None, given)
