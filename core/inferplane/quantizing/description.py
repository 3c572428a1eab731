"""Everything of a model's folder but its weights: config.json, tokenizer, chat template."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from inferplane.checkpoint import Checkpoint
from inferplane.tokenization.tokenizer import load_tokenizer

__all__ = ["write_description"]

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".index.json")
_MOST_BYTES = 64 << 20
"""Larger files are weights of some kind, whatever they are called."""


def write_description(
    checkpoint: Checkpoint, folder: Path, changes: Mapping[str, object], dtype: str
) -> None:
    """Describe in Hugging Face's layout a model of the checkpoint's shape.

    Its weights are of `dtype`; `changes` are keys of config.json. A GGUF file's tokenizer and chat
    template are written out, a folder's files are copied. Raises ModelError.
    """
    config = {
        **checkpoint.config,
        "dtype": dtype,
        "torch_dtype": dtype,
        **changes,
    }
    if "quantization_config" not in changes:
        config.pop("quantization_config", None)
    if checkpoint.format == "gguf":
        _write_tokenizer(checkpoint, folder)
    else:
        _copy_small_files(checkpoint.root, folder)
    _write_json(folder / "config.json", config)


def _copy_small_files(root: Path, folder: Path) -> None:
    for file in root.iterdir():
        is_small = file.is_file() and file.stat().st_size <= _MOST_BYTES
        if is_small and not file.name.endswith(_WEIGHTS):
            shutil.copyfile(file, folder / file.name)


def _write_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    tokenizer = load_tokenizer(checkpoint)
    tokenizer.backend.save(str(folder / "tokenizer.json"))
    about = {**tokenizer.special_tokens, "tokenizer_class": "PreTrainedTokenizerFast"}
    if checkpoint.chat_template:
        about["chat_template"] = checkpoint.chat_template
    _write_json(folder / "tokenizer_config.json", about)
    if checkpoint.generation_config:
        _write_json(folder / "generation_config.json", checkpoint.generation_config)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
