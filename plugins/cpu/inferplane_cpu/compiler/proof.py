"""A program proves itself before it serves: the same small steps, native and op by op in torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from inferplane.interfaces import StepFunction
from inferplane_cpu.compiler.capture import NotLoweredError

__all__ = ["ROWS", "check_program", "proof_step"]

LIMITS = {torch.float32: 1e-3}
"""Mean absolute difference of log-probabilities, by the dtype of activations."""
ROUNDED_LIMIT = 0.25
"""In bfloat16 torch rounds after every op and lies 0.04 to 0.2 from float32, the program 0.02 to
0.04 (SmolLM2-135M); a program that computes something else is off by whole nats."""
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
) -> None:
    """Compare both on short prompts in scratch block 0; the program holds `max_tokens`.

    Raises NotLoweredError with the difference found, so that torch takes the step over.
    """
    with _one_thread():
        for tokens in sorted({min(count, max_tokens) for count in TOKENS}):
            _check_step(program, fn, kv, proof_step(example, tokens))


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
) -> None:
    made = program(kv, inputs)
    if "ids" in made and not torch.equal(made["ids"].long(), made["logits"].argmax(-1)):
        raise NotLoweredError("the compiled step chooses other ids than those of its best logits")
    native = made["logits"].float().log_softmax(-1)
    result = fn(kv, inputs)
    expected = result["logits"].float().log_softmax(-1)
    found = float((native - expected).abs().mean())
    limit = LIMITS.get(result["hidden"].dtype, ROUNDED_LIMIT)
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
        "token_source": torch.full((tokens,), -1, dtype=torch.int32),
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
