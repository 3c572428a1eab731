"""Runs inside an environment with transformers: workloads by lines of JSON, static batches."""

from __future__ import annotations

import json
import os
import sys
import time

import torch
import transformers
from transformers import AutoModelForCausalLM


def main() -> None:
    """One answer a line; everything else goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    start = json.loads(sys.stdin.readline())
    torch.set_num_threads(start["threads"])
    began = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(start["model"], dtype=torch.bfloat16).eval()
    version = f"transformers {transformers.__version__}, torch {torch.__version__}"
    print(json.dumps({"ready_s": time.perf_counter() - began, "version": version}), file=answers)
    for line in sys.stdin:
        print(json.dumps({"seconds": run(model, json.loads(line))}), file=answers)


def run(model: torch.nn.Module, work: dict[str, object]) -> float:
    """Seconds for all prompts, in batches of `concurrency`, longest outputs together."""
    order = sorted(range(len(work["prompts"])), key=lambda i: -work["outputs"][i])
    size = work["concurrency"] or len(order)
    began = time.perf_counter()
    for first in range(0, len(order), size):
        batch = order[first : first + size]
        run_batch(model, [work["prompts"][i] for i in batch], [work["outputs"][i] for i in batch])
    return time.perf_counter() - began


def run_batch(model: torch.nn.Module, prompts: list[list[int]], outputs: list[int]) -> None:
    """Left-padded, greedy; every row runs as long as the longest."""
    width, most = max(map(len, prompts)), max(outputs)
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    with torch.inference_mode():
        made = model.generate(
            ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=most,
            min_new_tokens=most,
            pad_token_id=0,
        )
    if made.shape[1] != width + most:
        raise SystemExit(f"{made.shape[1] - width} tokens were made, {most} asked for")


if __name__ == "__main__":
    main()
