"""A program proves itself before it serves: the same small steps, native and op by op in torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from inferplane.interfaces import StepFunction
from inferplane_cpu.compiler.capture import NotLoweredError
from inferplane_cpu.native.library import Kind

__all__ = ["ROWS", "allowed", "check_program", "proof_step"]

DTYPE_LIMITS = {torch.float32: 1e-3}
"""Mean absolute difference of log-probabilities that another order of sums makes, by the dtype of
activations."""
ROUNDED_LIMIT = 0.25
"""In bfloat16 torch rounds after every op and lies 0.04 to 0.2 from float32, the program 0.02 to
0.04 (SmolLM2-135M); a program that computes something else is off by whole nats."""
INPUT_LIMITS = {
    **dict.fromkeys((Kind.INT8_G32, Kind.INT8_G16, Kind.INT4_G32), 8e-3),
    Kind.INT8: 1.0,
}
"""The same for linears that round their inputs, by how they hold their weights: to 16 bits of the
largest of 32, or to 8 bits of the largest of a row. A sum that differs in its last bit rounds to
the neighbouring step somewhere, so after some layers two right programs differ by whole steps.
Seen between them (SmolLM2-135M, float32): 0.0003 to 0.0012 and 0.20 to 0.24; the second is 0.46 in
bfloat16."""
TOKENS = (5, 16)
"""Prompts within one turn of the matrix kernels and of two, which take different paths."""
ROWS = 2
"""Rows of logits that are compared."""


def check_program(
    program: StepFunction,
    fn: StepFunction,
    kv: Mapping[str, object],
    example: Mapping[str, Tensor],
    max_tokens: int,
    kinds: Collection[Kind],
) -> None:
    """Compare both on short prompts in scratch block 0.

    The program holds `max_tokens`; its linears hold their weights in `kinds`.

    Raises NotLoweredError with the difference found, so that torch takes the step over.
    """
    with _one_thread():
        for tokens in sorted({min(count, max_tokens) for count in TOKENS}):
            _check_step(program, fn, kv, proof_step(example, tokens), kinds)


def allowed(dtype: torch.dtype, kinds: Collection[Kind]) -> float:
    """Mean absolute difference of log-probabilities between two right programs, at most."""
    limits = [INPUT_LIMITS[kind] for kind in kinds if kind in INPUT_LIMITS]
    return max([DTYPE_LIMITS.get(dtype, ROUNDED_LIMIT), *limits])


@contextmanager
def _one_thread() -> Iterator[None]:
    """torch's own threads would spin beside those of the compiled kernels."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_step(
    program: StepFunction,
    fn: StepFunction,
    kv: Mapping[str, object],
    inputs: Mapping[str, Tensor],
    kinds: Collection[Kind],
) -> None:
    made = program(kv, inputs)
    if "ids" in made and not torch.equal(made["ids"].long(), made["logits"].argmax(-1)):
        raise NotLoweredError("the compiled step chooses other ids than those of its best logits")
    native = made["logits"].float().log_softmax(-1)
    result = fn(kv, inputs)
    expected = result["logits"].float().log_softmax(-1)
    found = float((native - expected).abs().mean())
    limit = allowed(result["hidden"].dtype, kinds)
    if not found <= limit:
        raise NotLoweredError(
            f"the compiled step differs from torch by {found:.3g} in log-probability, "
            f"{limit:.3g} is allowed"
        )


def proof_step(example: Mapping[str, Tensor], tokens: int) -> dict[str, Tensor]:
    """One prompt of at most 16 tokens, all in block 0, in the shape of the example's inputs."""
    count = torch.arange(tokens, dtype=torch.int32)
    by_name = {
        "token_ids": 29 + 5 * count,
        "positions": count,
        "token_source": torch.zeros(tokens, dtype=torch.int32),
        "rows": torch.tensor([max(tokens - 2, 0), tokens - 1], dtype=torch.int32),
        "query_start": torch.tensor([0, tokens], dtype=torch.int32),
        "seq_lens": torch.tensor([tokens], dtype=torch.int32),
        "slots": count,
    }
    made = {}
    for name, tensor in example.items():
        short = name.rpartition(".")[2]
        if short == "tables":
            made[name] = torch.zeros(1, tensor.shape[1], dtype=torch.int32)
        else:
            made[name] = by_name.get(short, tensor)
    return made
