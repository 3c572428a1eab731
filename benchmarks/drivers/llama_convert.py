"""Runs inside an environment with llama-cpp-python: one GGUF file into BF16, Q8_0 and Q4_0.

python llama_convert.py SOURCE.gguf FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import llama_cpp

TYPES = {
    "bf16": llama_cpp.LLAMA_FTYPE_MOSTLY_BF16,
    "int8": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "int4": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
}


def main() -> None:
    """BF16 from the source, the others from BF16, so that all hold the same weights."""
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    for name, kind in TYPES.items():
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype = kind
        params.allow_requantize = True
        target = folder / f"{name}.gguf"
        if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), params):
            raise SystemExit(f"llama.cpp could not write {target}")
        source = folder / "bf16.gguf"


if __name__ == "__main__":
    main()
