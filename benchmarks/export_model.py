"""Write a GGUF model as a folder of bf16 safetensors, so that all peers load the same weights.

python benchmarks/export_model.py FOLDER [--model smollm2-135m]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from inferplane.catalogue import resolve_model
from inferplane.checkpoint import open_checkpoint
from inferplane.config import DEFAULT_MODEL
from inferplane.loading import iterate_weights
from inferplane.quantizing.description import write_description


def main() -> None:
    """Read arguments, write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    chosen = parser.parse_args()
    checkpoint = open_checkpoint(resolve_model(chosen.model))
    chosen.folder.mkdir(parents=True, exist_ok=True)

    weights = {
        name: tensor.to(torch.bfloat16).contiguous() for name, tensor in iterate_weights(checkpoint)
    }
    save_file(weights, chosen.folder / "model.safetensors", metadata={"format": "pt"})
    write_description(checkpoint, chosen.folder, {}, "bfloat16")
    print(f"{len(weights)} tensors in {chosen.folder}")


if __name__ == "__main__":
    main()
