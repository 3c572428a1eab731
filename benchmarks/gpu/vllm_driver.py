"""Runs inside an environment with vLLM: one task as JSON on stdin, one answer on stdout.

The settings are those of the recorded baseline: dummy weights, bfloat16, prefix cache on, greedy,
the wall time of the whole call.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import vllm
from vllm import LLM, SamplingParams


def main() -> None:
    """What vLLM prints goes to stderr, so that stdout holds the answer alone."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    task = json.load(sys.stdin)
    began = time.perf_counter()
    llm = LLM(
        task["model"],
        load_format="dummy",
        skip_tokenizer_init=True,
        dtype="bfloat16",
        max_model_len=task["max_model_len"],
        max_num_seqs=task["max_num_seqs"],
        max_num_batched_tokens=task["max_batched_tokens"],
        gpu_memory_utilization=0.85,
        enable_prefix_caching=True,
        seed=0,
    )
    start_s = time.perf_counter() - began
    runs = [timed(llm, work) for work in task["workloads"]]
    version = f"vLLM {vllm.__version__}"
    answer = {"version": version, "start_s": start_s, "runs": [run for run in runs if run["kind"]]}
    print(json.dumps(answer), file=answers, flush=True)


def timed(llm: LLM, work: dict[str, Any]) -> dict[str, Any]:
    """{"kind", "seconds"}. Raises SystemExit when it gives other lengths than asked for."""
    prompts = [{"prompt_token_ids": ids} for ids in work["prompts"]]
    params = [
        SamplingParams(temperature=0.0, max_tokens=most, ignore_eos=True, detokenize=False)
        for most in work["outputs"]
    ]
    began = time.perf_counter()
    made = llm.generate(prompts, params, use_tqdm=False)
    seconds = time.perf_counter() - began
    lengths = [len(answer.outputs[0].token_ids) for answer in made]
    if lengths != work["outputs"]:
        raise SystemExit(f"asked for {work['outputs']} tokens, got {lengths}")
    return {"kind": work["kind"], "seconds": seconds}


if __name__ == "__main__":  # vLLM spawns processes that import this file again
    main()
