"""The process that runs gptqmodel: one argument, the file that says what to do."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["main"]


def main(task: dict[str, Any]) -> None:
    """Load, calibrate, save. ImportError without the extra `quantize`."""
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig  # torch and more: only in here

    is_awq = task["method"] == "awq"
    config = QuantizeConfig(
        bits=4,
        group_size=task["group"],
        quant_method=task["method"],
        format="gemm" if is_awq else "gptq",
        sym=not is_awq,
        desc_act=False,
    )
    model = GPTQModel.load(task["source"], config)
    samples = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in task["samples"]]
    # What it would choose for AWQ needs a GPU even to pack.
    backend = BACKEND.AWQ_TORCH if is_awq else BACKEND.AUTO
    model.quantize(samples, batch_size=1, backend=backend)
    model.save(task["out"])


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
