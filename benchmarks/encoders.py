"""Embeddings: ours native, ours by ONNX Runtime and sentence-transformers in turns, in one run.

python benchmarks/encoders.py [--model all-minilm-l6-v2] [--turns 7]

ONNX Runtime takes part where inferplane-cpu[onnx] is installed, sentence-transformers where it is.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from interleaved import Comparison, Report, in_turns, read_gb_per_s

from inferplane import LLM
from inferplane.catalogue import resolve_model

Embed = Callable[[Sequence[str]], object]

_SENTENCE = "One small core plans what runs next, and a plugin decides how it is done. "
_WORKLOADS: Mapping[str, Sequence[str]] = {
    "one short text": ["What is the capital of France?"],
    "64 short texts": ["What is the capital of France?", "Paris is its capital."] * 32,
    "16 long texts": [_SENTENCE * 12] * 16,
    "64 of all lengths": [_SENTENCE * (1 + number % 12) for number in range(64)],
}


def main() -> None:
    """Read arguments, run all workloads, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="all-minilm-l6-v2")
    parser.add_argument("--turns", type=int, default=7)
    chosen = parser.parse_args()
    opened = [LLM(chosen.model, device="cpu", dtype="float32")]
    systems: dict[str, Embed] = {"native float32": opened[0].embed}
    versions = {"native float32": metadata.version("inferplane-cpu")}
    if find_spec("onnxruntime") and find_spec("onnx"):
        opened.append(LLM(chosen.model, device="cpu", options={"encoder": "onnx"}))
        systems["onnx"] = opened[-1].embed
        versions["onnx"] = metadata.version("onnxruntime")
    opened.append(LLM(chosen.model, device="cpu"))
    systems["native default"] = opened[-1].embed
    versions["native default"] = opened[-1].plan.config.dtype
    if find_spec("sentence_transformers"):
        systems["sentence-tr."] = sentence_transformers(resolve_model(chosen.model))
        versions["sentence-tr."] = metadata.version("sentence-transformers")
    report = Report(versions)
    report.probes_gb_per_s.append(read_gb_per_s())
    for name, texts in _WORKLOADS.items():
        timed = {system: partial(rate, embed, texts) for system, embed in systems.items()}
        figures = in_turns(timed, chosen.turns)
        report.comparisons.append(Comparison(name, "texts/s", figures))
    report.probes_gb_per_s.append(read_gb_per_s())
    for llm in opened:
        llm.close()
    print(report.text())


def rate(embed: Embed, texts: Sequence[str]) -> float:
    """Texts a second, over as many calls as make a measurable time."""
    calls = max(16 // len(texts), 1)
    began = time.perf_counter()
    for _ in range(calls):
        embed(texts)
    return calls * len(texts) / (time.perf_counter() - began)


def sentence_transformers(folder: Path) -> Embed:
    """The library's own encoder of the same files."""
    from sentence_transformers import SentenceTransformer  # a peer, which may not be there

    model = SentenceTransformer(str(folder), device="cpu")
    return lambda texts: model.encode(list(texts), batch_size=64)


if __name__ == "__main__":
    main()
