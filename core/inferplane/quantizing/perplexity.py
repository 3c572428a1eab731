"""How well a served model predicts a fixed text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import resources

from inferplane.llm import LLM
from inferplane.sampling_params import SamplingParams

__all__ = ["PIECE_TOKENS", "cut", "measure_perplexity", "sample_text"]

PIECE_TOKENS = 256
"""Context under which the text is predicted; also the length of a calibration sample."""


def sample_text() -> str:
    """The packaged text: prose, dialogue, a recipe, some code, about 1,300 tokens."""
    packaged = resources.files("inferplane.quantizing").joinpath("sample.txt")
    return packaged.read_text(encoding="utf-8")


def cut(ids: Sequence[int], size: int = PIECE_TOKENS) -> list[list[int]]:
    """Pieces of `size` tokens; a last one of fewer than two predicts nothing and is left out."""
    pieces = [list(ids[at : at + size]) for at in range(0, len(ids), size)]
    return [piece for piece in pieces if len(piece) > 1]


def measure_perplexity(
    model: str, pieces: Sequence[Sequence[int]], settings: Mapping[str, object]
) -> float:
    """exp of the mean negative log-probability of each token after the first of its piece.

    `settings` as for LLM. Raises ConfigError and its kinds when the model cannot be served here.
    """
    asked = {**settings, "max_model_len": PIECE_TOKENS + 1, "max_num_seqs": len(pieces)}
    params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
    with LLM(model, **asked) as llm:
        done = llm.generate([list(piece) for piece in pieces], params)
    told = [row.values[0] for one in done for row in one.prompt_logprobs or () if row is not None]
    return math.exp(-sum(told) / len(told))
