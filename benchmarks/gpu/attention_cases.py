"""Steps of paged attention at the sizes of real models, for errors and for times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inferplane.execution.quantized_kv import QuantizedKV, QuantizedRows, row_bytes
from inferplane.execution.torch_kv_store import PagedKV
from inferplane.interfaces import AttentionMeta, AttentionSpec, StepBatch
from inferplane.ops.reference.rotary import norm_rotary as reference_norm_rotary
from inferplane_triton.attention.paged import PagedAttention
from inferplane_triton.kernels.activation import silu_mul
from inferplane_triton.kernels.linear import linear
from inferplane_triton.kernels.norm import add_rms_norm
from inferplane_triton.kernels.rotary import norm_rotary

__all__ = [
    "Case",
    "attention_errors",
    "coded",
    "error",
    "expected",
    "kernel_errors",
    "make_case",
    "rebuild",
]

_BLOCK = 16


@dataclass
class Device:
    """All a backend asks of its runtime."""

    torch_device: str = "cuda"

    def prompt_attention(self, head_dim: int, dtype: str) -> None:
        """Our own kernels alone."""


@dataclass
class Case:
    """A step ready to run on random data."""

    backend: PagedAttention
    spec: AttentionSpec
    batch: StepBatch
    meta: AttentionMeta
    q: Tensor
    k: Tensor
    v: Tensor
    kv: PagedKV | QuantizedKV

    def run(self) -> Tensor:
        """Write and attend."""
        return self.backend.forward(self.q, self.k, self.v, self.kv, self.meta)

    @property
    def kv_bytes(self) -> int:
        """Keys and values that must be read at least once."""
        row = self.spec.num_kv_heads * (self.spec.head_dim + self.spec.head_dim_v)
        size = self.kv.k.element_size() if isinstance(self.kv, PagedKV) else 1
        return int(self.batch.seq_lens.sum()) * row * size

    @property
    def flop(self) -> float:
        """Of both products, the causal half alone."""
        queries = np.diff(self.batch.query_start)
        pairs = queries * (self.batch.seq_lens - queries) + queries * (queries + 1) / 2
        return float(pairs.sum()) * 4 * self.spec.num_heads * self.spec.head_dim


def make_case(
    heads: tuple[int, int],
    queries: Sequence[int],
    contexts: Sequence[int],
    shared: int = 0,
    dim: int = 128,
    kv_dtype: str = "auto",
    backend: type[PagedAttention] = PagedAttention,
) -> Case:
    """`contexts` cached tokens and `queries` new ones each; the first `shared` blocks are common.

    Blocks lie in random order in a cache of just that size.
    """
    spec = AttentionSpec(*heads, dim, dim, "bfloat16", kv_dtype, dim**-0.5, _BLOCK)
    lens = np.add(queries, contexts).astype(np.int32)
    counts = -(-lens // _BLOCK)
    own = int((counts - shared).sum())
    order = np.random.default_rng(0).permutation(own + shared) + 1
    tables = np.zeros((len(lens), int(counts.max())), np.int32)
    at = shared
    for row, count in enumerate(counts):
        tables[row, :shared] = order[:shared]
        tables[row, shared:count] = order[at : at + count - shared]
        at += count - shared
    places = [np.arange(n, n + q) for n, q in zip(contexts, queries, strict=True)]
    slots = [tables[i, p // _BLOCK] * _BLOCK + p % _BLOCK for i, p in enumerate(places)]
    total = int(sum(queries))
    batch = StepBatch(
        step=0,
        num_decodes=len(lens) if max(queries) == 1 else 0,
        token_ids=np.zeros(total, np.int32),
        token_source=np.full(total, -1, np.int32),
        positions=np.concatenate(places).astype(np.int32),
        query_start=np.concatenate(([0], np.cumsum(queries))).astype(np.int32),
        seq_lens=lens,
        lanes=np.arange(len(lens), dtype=np.int32),
        block_tables=(tables,),
        slots=(np.concatenate(slots).astype(np.int32),),
        sampled=np.arange(len(lens), dtype=np.int32),
    )

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)

    shape = own + shared + 1, _BLOCK, heads[1], dim
    kv = PagedKV(drawn(*shape), drawn(*shape), "nhd", _BLOCK)
    case = Case(
        backend(spec, Device()),  # type: ignore[arg-type]
        spec, batch, AttentionMeta(None, {}), drawn(total, heads[0], dim),
        drawn(total, heads[1], dim), drawn(total, heads[1], dim),
        kv if kv_dtype == "auto" else coded(kv, kv_dtype),
    )  # fmt: skip
    rebuild(case)
    return case


def coded(kv: PagedKV, kv_dtype: str) -> QuantizedKV:
    """The same in 8 bits."""
    blocks, page, heads, dim = kv.k.shape
    size = blocks * page * heads * row_bytes(dim)
    buffers = (torch.zeros(size, dtype=torch.uint8, device="cuda") for _ in range(2))
    rows = (QuantizedRows.over(buffer, kv_dtype, (page, heads, dim)) for buffer in buffers)
    made = QuantizedKV(*rows)
    made.write(torch.arange(blocks * page, device="cuda"), kv.k.flatten(0, 1), kv.v.flatten(0, 1))
    return made


def rebuild(case: Case) -> None:
    """Make the work lists anew, after the backend's tuning was changed."""
    meta = case.backend.build(case.batch, None)
    arrays = {name: torch.from_numpy(array).cuda() for name, array in meta.arrays.items()}
    case.meta = AttentionMeta(meta.static, arrays)


def attention_errors(seed: int) -> dict[str, float]:
    """Relative error against float64 of decodes, prompts, chunks and a mixed step."""
    from inferplane_cuda.attention.coded import CodedAttention  # its kernels for 8 bits

    torch.manual_seed(seed)
    cases = {
        "decode 32/8": ((32, 8), [1] * 17, list(range(1, 4000, 240))),
        "decode 16/8": ((16, 8), [1] * 3, [3, 700, 9000]),
        "lone decode 32/8": ((32, 8), [1], [511]),
        "prompts 32/8": ((32, 8), [700, 64, 5], [0, 0, 0]),
        "chunks 16/8": ((16, 8), [300, 33], [1000, 17]),
    }
    found = {}
    for name, (heads, queries, contexts) in cases.items():
        for kv_dtype in ("auto", "fp8", "int8") if "decode" in name else ("auto",):
            case = make_case(
                heads,
                queries,
                contexts,
                kv_dtype=kv_dtype,
                backend=PagedAttention if kv_dtype == "auto" else CodedAttention,
            )
            told = name if kv_dtype == "auto" else f"{name} {kv_dtype}"
            found[told] = max(error(case.run(), expected(case)) for _ in range(3))
    return found


def expected(case: Case) -> Tensor:
    """float64, sequence by sequence; the new keys and values are in the cache by now."""
    group = case.spec.num_heads // case.spec.num_kv_heads
    out = []
    for row, length in enumerate(case.batch.seq_lens):
        part = slice(*case.batch.query_start[row : row + 2])
        place = np.arange(length)
        slots = case.batch.block_tables[0][row, place // _BLOCK] * _BLOCK + place % _BLOCK
        keys, values = (x.double() for x in case.kv.read(torch.from_numpy(slots).cuda()))
        at = torch.from_numpy(case.batch.positions[part]).cuda()[:, None]
        seen = torch.arange(int(length), device="cuda") <= at
        q = case.q[part].double().unflatten(1, (-1, group))
        scores = torch.einsum("tkgh,lkh->tkgl", q, keys) * case.spec.scale
        weights = scores.masked_fill(~seen[:, None, None], -torch.inf).softmax(-1)
        out.append(torch.einsum("tkgl,lkh->tkgh", weights, values).flatten(1, 2))
    return torch.cat(out)


def kernel_errors(seed: int) -> dict[str, float]:
    """Relative errors of the small kernels, one row and many."""
    torch.manual_seed(seed)
    found: dict[str, float] = {}
    for rows in (1, 333):
        x, residual = (torch.randn(rows, 4096, device="cuda").bfloat16() for _ in range(2))
        w = torch.randn(4096, device="cuda")
        total = (x + residual).double()
        normed = total * torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + 1e-5) * w.double()
        found[f"add_rms_norm {rows}"] = error(add_rms_norm(x, residual, w, 1e-5)[0], normed)
        gate, up = torch.cat((x, residual), 1).double().chunk(2, 1)
        gated = torch.nn.functional.silu(gate) * up
        found[f"silu_mul {rows}"] = error(silu_mul(torch.cat((x, residual), 1)), gated)
        matrix = torch.randn(1024, 4096, device="cuda").bfloat16()
        found[f"linear {rows}"] = error(linear(x, matrix, None), x.double() @ matrix.double().t())
        q = torch.randn(rows, 32, 128, device="cuda").bfloat16()
        angle = torch.randn(rows, 64, device="cuda")
        weights = torch.randn(2, 128, device="cuda")
        args = (*weights, 1e-6, angle.cos(), angle.sin(), False)
        ours, wide = norm_rotary(q, q, *args), reference_norm_rotary(q.float(), q.float(), *args)
        found[f"norm_rotary {rows}"] = max(
            error(a, b.double()) for a, b in zip(ours, wide, strict=True)
        )
    return found


def error(got: Tensor, wanted: Tensor) -> float:
    """||got - wanted|| / ||wanted||; infinite where anything is not finite."""
    if not got.isfinite().all():
        return float("inf")
    return float((got.double() - wanted).norm() / wanted.norm())
