"""GGUF files of a Llama-shaped folder: blocks by the gguf package, mixtures by llama.cpp."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["write_blocks", "write_mixture"]

FILE = "model.gguf"


def write_blocks(source: Path, target: Path, kind: str) -> None:
    """Every matrix in blocks of the ggml type `kind`, quantised by the gguf package."""
    import gguf as library
    import numpy as np
    from safetensors.torch import load_file

    config = json.loads((source / "config.json").read_text())
    writer = library.GGUFWriter(target / FILE, "llama")
    _describe(writer, config, json.loads((source / "tokenizer.json").read_text()))
    names = library.get_tensor_name_map(library.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, tensor in load_file(source / "model.safetensors").items():
        values = tensor.float()
        for part, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
            if f".{part}." in name:  # llama.cpp's order of the rotated halves
                halves = values.view(config[heads], 2, -1, values.shape[1])
                values = halves.transpose(1, 2).reshape(values.shape)
        stored = names.get_name(name, try_suffixes=(".weight",))
        array = values.numpy()
        if array.ndim == 2:
            form = library.GGMLQuantizationType[kind]
            writer.add_tensor(stored, library.quants.quantize(array, form), raw_dtype=form)
        else:
            writer.add_tensor(stored, array.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_mixture(source: Path, target: Path, kind: str) -> None:
    """llama.cpp's mixture `kind` (Q4_K_M, Q6_K, …): other types where 256 divides no row."""
    import llama_cpp as library

    write_blocks(source, target, "F32")
    wide = (target / FILE).rename(target / "wide.gguf")
    asked = library.llama_model_quantize_default_params()
    asked.ftype = getattr(library, f"LLAMA_FTYPE_MOSTLY_{kind}")
    asked.nthread = 1
    names = [str(path).encode() for path in (wide, target / FILE)]
    if library.llama_model_quantize(*names, ctypes.byref(asked)):
        raise RuntimeError(f"llama.cpp could not quantise {wide} to {kind}")
    wide.unlink()


def _describe(writer: Any, config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    vocabulary = tokenizer["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.get)
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    special = {token["content"] for token in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"][0])
