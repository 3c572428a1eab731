"""Runs inside an environment with openvino-genai: workloads by lines of JSON, one GGUF file."""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np
import openvino
import openvino_genai

KV_GIB = 2


def main() -> None:
    """One answer a line; everything else goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    start = json.loads(sys.stdin.readline())
    began = time.perf_counter()
    settings = openvino_genai.SchedulerConfig()
    settings.cache_size = KV_GIB
    settings.max_num_seqs = start["max_num_seqs"]
    settings.enable_prefix_caching = False
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        start["model"], settings, "CPU", {"INFERENCE_NUM_THREADS": start["threads"]}
    )
    version = f"openvino-genai {openvino_genai.__version__}"
    print(json.dumps({"ready_s": time.perf_counter() - began, "version": version}), file=answers)
    for line in sys.stdin:
        print(json.dumps({"seconds": run(pipeline, json.loads(line))}), file=answers)


def run(pipeline: openvino_genai.ContinuousBatchingPipeline, work: dict) -> float:
    """Seconds for all prompts; the pipeline schedules them itself."""
    prompts = [openvino.Tensor(np.array([ids], np.int64)) for ids in work["prompts"]]
    asked = [
        openvino_genai.GenerationConfig(max_new_tokens=most, ignore_eos=True, do_sample=False)
        for most in work["outputs"]
    ]
    began = time.perf_counter()
    made = pipeline.generate(prompts, asked)
    took = time.perf_counter() - began
    for answer, most in zip(made, work["outputs"], strict=True):
        if len(answer.m_generation_ids[0]) != most:
            raise SystemExit(f"{len(answer.m_generation_ids[0])} tokens, {most} asked for")
    return took


if __name__ == "__main__":
    main()
