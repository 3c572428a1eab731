"""A task of lm-eval scored by a running server and by transformers on the same weights.

Run by scripts/test-clients with lm-eval's environment, from the root of the repository, as
`lm_eval_check.py URL DTYPE [LIMIT]`. The server must serve the default model in DTYPE, dequantised;
LIMIT is the largest difference of a log-likelihood, for servers that round as transformers does.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from inferplane.catalogue import resolve_model
from inferplane.config import DEFAULT_MODEL

SCORED, TOLD = "capitals", "capitals_told"
EQUAL = {"float32": 1.0, "bfloat16": 0.9}
"""Least share of equal greedy answers."""


class Judge:
    """lm-eval with our tasks and nobody else's."""

    def __init__(self) -> None:
        folder = Path(__file__).with_name("lm_eval")
        self.tasks = TaskManager(include_path=str(folder), include_defaults=False)

    def answers(
        self, task: str, model: str | LM, args: Mapping[str, Any] | None = None
    ) -> list[Any]:
        """What the model answered to each question of the task, in order; its score is printed."""
        found = simple_evaluate(
            model=model,
            model_args=None if args is None else dict(args),
            tasks=[task],
            task_manager=self.tasks,
            apply_chat_template=task == TOLD,
            bootstrap_iters=0,
        )
        assert found is not None
        score = found["results"][task]
        name = model if isinstance(model, str) else "transformers"
        print(f"{task} by {name}: {score.get('acc,none', score.get('exact_match,none'))}")
        samples = sorted(found["samples"][task], key=lambda one: one["doc_id"])
        return [one["resps"] for one in samples]


def reference(dtype: str) -> HFLM:
    """The default model's file in transformers, every weight dequantised to `dtype`.

    Log-likelihoods are those of its logits in float32, as every server tells them: in bfloat16 they
    would be rounded once more, to 3e-2 where they are about 5.
    """
    file = resolve_model(DEFAULT_MODEL)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=getattr(torch, dtype),
    )
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    return HFLM(pretrained=model.eval(), tokenizer=tokenizer, device="cpu", softmax_dtype="float32")


def differences(ours: Sequence[Any], theirs: Sequence[Any]) -> list[float]:
    """|difference| of the log-likelihood of each choice of each question."""
    return [
        abs(float(a[0][0]) - float(b[0][0]))
        for mine, yours in zip(ours, theirs, strict=True)
        for a, b in zip(mine, yours, strict=True)
    ]


def told(what: str, found: Sequence[float]) -> float:
    """Print and return the mean."""
    mean = sum(found) / len(found)
    print(f"{what}: {len(found)} log-likelihoods, |delta| mean {mean:.1e}, max {max(found):.1e}")
    return mean


def scores(judge: Judge, url: str, theirs: HFLM, dtype: str, limit: float | None) -> None:
    """Log-likelihoods agree within the limit; without one ours are as near to float32 as theirs.

    Two programs that round to 8 bits at different places differ by more than either needs to.
    """
    completions = {
        "model": DEFAULT_MODEL,
        "base_url": f"{url}/v1/completions",
        "tokenizer_backend": "remote",
        "batch_size": 8,
    }
    ours = judge.answers(SCORED, "local-completions", completions)
    expected = judge.answers(SCORED, theirs)
    found = differences(ours, expected)
    told(f"{dtype}, ours to transformers", found)
    if limit is not None:
        assert max(found) <= limit
        return
    truth = judge.answers(SCORED, reference("float32"))
    error = told(f"ours in {dtype} to transformers in float32", differences(ours, truth))
    needed = told(f"transformers in {dtype} to its float32", differences(expected, truth))
    assert error <= needed


def answers(judge: Judge, url: str, theirs: HFLM, dtype: str) -> None:
    """Greedy answers are equal; in bfloat16 nearly all, for some tokens are as likely as others."""
    chat = {"model": DEFAULT_MODEL, "base_url": f"{url}/v1/chat/completions"}
    said = judge.answers(TOLD, "local-chat-completions", chat)
    expected = judge.answers(TOLD, theirs)
    same = sum(a == b for a, b in zip(said, expected, strict=True))
    print(f"{dtype}: {same} of {len(said)} greedy answers are equal")
    assert same >= EQUAL[dtype] * len(said)


def main(url: str, dtype: str, limit: str = "") -> None:
    """Both tasks by both; the first disagreement ends it."""
    judge, theirs = Judge(), reference(dtype)
    scores(judge, url, theirs, dtype, float(limit) if limit else None)
    answers(judge, url, theirs, dtype)


if __name__ == "__main__":
    main(*sys.argv[1:])
