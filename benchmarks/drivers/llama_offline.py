"""Runs inside an environment with llama-cpp-python: workloads by lines of JSON, one GGUF file.

Rows of all sequences go into one batch a step, as llama.cpp's own server does it.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time

import llama_cpp
import numpy as np

STEP_TOKENS = 512
"""llama.cpp's own default for a physical batch."""


def main() -> None:
    """One answer a line; everything else goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    start = json.loads(sys.stdin.readline())
    began = time.perf_counter()
    session = Session(start)
    version = f"llama-cpp-python {llama_cpp.__version__}"
    print(json.dumps({"ready_s": time.perf_counter() - began, "version": version}), file=answers)
    for line in sys.stdin:
        print(json.dumps({"seconds": session.run(json.loads(line))}), file=answers)


class Session:
    """A model and a context with room for every sequence."""

    def __init__(self, start: dict) -> None:
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(
            start["model"].encode(), llama_cpp.llama_model_default_params()
        )
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = start["kv_tokens"]
        params.n_seq_max = start["max_num_seqs"]
        params.kv_unified = True
        params.n_batch = params.n_ubatch = STEP_TOKENS
        params.n_threads = params.n_threads_batch = start["threads"]
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._model or not self._context:
            raise SystemExit(f"llama.cpp cannot open {start['model']}")
        vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(vocab)
        self._batch = llama_cpp.llama_batch_init(STEP_TOKENS, 0, 1)

    def run(self, work: dict) -> float:
        """Seconds for all prompts, `concurrency` at once, each group until its longest ends."""
        size = work["concurrency"] or len(work["prompts"])
        began = time.perf_counter()
        for first in range(0, len(work["prompts"]), size):
            last = first + size
            self._group(work["prompts"][first:last], work["outputs"][first:last])
        return time.perf_counter() - began

    def _group(self, prompts: list[list[int]], outputs: list[int]) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), False)
        rows = [
            (token, place, sequence, place == len(prompt) - 1)
            for sequence, prompt in enumerate(prompts)
            for place, token in enumerate(prompt)
        ]
        newest: dict[int, int] = {}
        for first in range(0, len(rows), STEP_TOKENS):
            newest.update(self._step(rows[first : first + STEP_TOKENS]))
        for made in range(1, max(outputs)):
            rows = [
                (newest[s], len(prompts[s]) + made - 1, s, True)
                for s in newest
                if made < outputs[s]
            ]
            newest.update(self._step(rows))

    def _step(self, rows: list[tuple[int, int, int, bool]]) -> dict[int, int]:
        """Decode these rows; the greedy token of each sequence whose row asked for one."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for i, (token, place, sequence, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i] = token, place
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
            batch.logits[i] = wanted
        if llama_cpp.llama_decode(self._context, batch):
            raise SystemExit(f"llama_decode failed for {len(rows)} rows")
        return {row[2]: self._best(i) for i, row in enumerate(rows) if row[3]}

    def _best(self, row: int) -> int:
        scores = llama_cpp.llama_get_logits_ith(self._context, row)
        address = ctypes.cast(scores, ctypes.c_void_p).value
        values = (ctypes.c_float * self._vocab_size).from_address(address)
        return int(np.frombuffer(values, np.float32).argmax())


if __name__ == "__main__":
    main()
