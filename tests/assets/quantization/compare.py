"""Serve checkpoints that others' tools wrote and compare with what those tools compute.

python compare.py FOLDER [--device NAME] [--kernels reference]

FOLDER is what make_checkpoints.py filled. Prints a row for each checkpoint and ends with 1 where
one is beyond the limits: those of the kit for quantised layers under forced tokens, or twice what
the tool's own result moves when its input moves by a millionth; and 1 % of perplexity.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inferplane.errors import InferplaneError
from inferplane.llm import LLM
from inferplane.sampling_params import SamplingParams

MEAN_DELTA, SAME_BEST, PERPLEXITY = 0.15, 0.97, 0.01


@dataclass(frozen=True, slots=True)
class Comparison:
    """One checkpoint under forced tokens."""

    name: str
    mean_delta: float
    """Mean |delta log-probability| of the text's tokens."""
    same_best: float
    """Share of positions with the same most likely token."""
    perplexity: float
    theirs: float
    own_delta: float
    """What a millionth more of the embeddings does to the tool's own result."""
    own_same_best: float
    kernels: Mapping[str, int]
    """Name of a quantised linear kernel -> kinds of layers it serves."""

    @property
    def row(self) -> str:
        """A line of the table."""
        served = ", ".join(self.kernels) or "dense"
        return (
            f"| {self.name} | {self.mean_delta:.5f} | {self.own_delta:.5f} | {self.same_best:.1%} "
            f"| {self.perplexity:.3f} | {self.theirs:.3f} | {served} |"
        )

    @property
    def fault(self) -> str:
        """What is beyond its limit; "" = nothing."""
        off = abs(self.perplexity / self.theirs - 1)
        most = max(MEAN_DELTA, 2 * self.own_delta)
        least = min(SAME_BEST, 1 - 2 * (1 - self.own_same_best))
        checks = (
            (self.mean_delta <= most, f"mean delta {self.mean_delta:.4f} > {most:.4f}"),
            (self.same_best >= least, f"same best {self.same_best:.3f} < {least:.3f}"),
            (off <= PERPLEXITY, f"perplexity off by {off:.2%} > {PERPLEXITY:.0%}"),
        )
        return ", ".join(told for holds, told in checks if not holds)


def compare(folder: Path, **settings: object) -> Comparison:
    """Load one checkpoint with the engine and force the reference's tokens."""
    reference = json.loads((folder / "reference.json").read_text(encoding="utf-8"))
    ids = reference["token_ids"]
    params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=1)
    settings |= {"kv_dtype": _kv_dtype(folder), "max_model_len": len(ids) + 16, "max_num_seqs": 1}
    with LLM(str(folder), **settings) as llm:
        told = llm.generate([ids], params)[0].prompt_logprobs
        kernels = _kernels(llm)
    assert told is not None
    rows = [row for row in told if row is not None]
    ours = np.array([row.values[0] for row in rows])
    best = np.array([max(zip(row.values, row.ids, strict=True))[1] for row in rows])
    theirs = np.array(reference["logprobs"])
    return Comparison(
        name=folder.name,
        mean_delta=float(np.abs(ours - theirs).mean()),
        same_best=float((best == np.array(reference["best"])).mean()),
        perplexity=math.exp(-float(ours.mean())),
        theirs=reference["perplexity"],
        own_delta=reference["own_delta"],
        own_same_best=reference["own_same_best"],
        kernels=kernels,
    )


def _kv_dtype(folder: Path) -> str:
    """8 bits where the checkpoint says so: its tool rounds keys and values too."""
    path = folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    scheme = content.get("quantization_config", {}).get("kv_cache_scheme")
    return {"float": "fp8", "int": "int8"}[scheme["type"]] if scheme else "auto"


def _kernels(llm: LLM) -> dict[str, int]:
    found: dict[str, int] = {}
    for choice in llm.choices():
        if choice.kind == "quantization":
            found[choice.name] = found.get(choice.name, 0) + 1
    return found


def checkpoints(folder: Path) -> Iterator[Path]:
    """Those with a reference, by name."""
    for reference in sorted(folder.glob("*/reference.json")):
        yield reference.parent


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--kernels", default="auto", help="quantised linear kernel, or reference")
    parser.add_argument("--only", nargs="*")
    chosen = parser.parse_args()
    kernels = {} if chosen.kernels == "auto" else {"quantization": chosen.kernels}
    print("| checkpoint | mean abs delta | its own | same best | perplexity | theirs | kernels |")
    print("|---|---|---|---|---|---|---|")
    faults = []
    for folder in checkpoints(chosen.folder):
        if chosen.only and folder.name not in chosen.only:
            continue
        try:
            one = compare(folder, device=chosen.device, dtype=chosen.dtype, kernels=kernels)
        except InferplaneError as error:
            faults.append(f"{folder.name}: {error}")
            continue
        print(one.row, flush=True)
        if one.fault:
            faults.append(f"{one.name}: {one.fault}")
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
