"""Runs inside an environment with llama-cpp-python and gguf: random weights of a Qwen3 shape.

python llama_dummy.py FOLDER   # with config.json; writes int4.gguf (Q4_0, the output layer Q8_0)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gguf
import numpy as np


def main() -> None:
    """Every matrix is made, quantised and written one at a time."""
    folder = Path(sys.argv[1])
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(folder / "int4.gguf", "qwen3")
    _describe(writer, config)
    random = np.random.default_rng(0)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    dim = config["head_dim"]
    query, key = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim

    def matrix(name: str, rows: int, columns: int, kind: gguf.GGMLQuantizationType) -> None:
        values = random.standard_normal((rows, columns), np.float32) * 0.02
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)

    def norm(name: str, size: int) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(size, np.float32))

    four, eight = gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q8_0
    matrix("token_embd", config["vocab_size"], hidden, eight)
    norm("output_norm", hidden)
    for layer in range(config["num_hidden_layers"]):
        at = f"blk.{layer}"
        for name, size in (("attn_norm", hidden), ("ffn_norm", hidden)):
            norm(f"{at}.{name}", size)
        for name in ("attn_q_norm", "attn_k_norm"):
            norm(f"{at}.{name}", dim)
        for name, rows, columns in (
            ("attn_q", query, hidden),
            ("attn_k", key, hidden),
            ("attn_v", key, hidden),
            ("attn_output", hidden, query),
            ("ffn_gate", inner, hidden),
            ("ffn_up", inner, hidden),
            ("ffn_down", hidden, inner),
        ):
            matrix(f"{at}.{name}", rows, columns, four)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: gguf.GGUFWriter, config: dict) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    # Ids only: a vocabulary of made-up words with the one merge that readers insist on.
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(["t", "0", *(f"t{i}" for i in range(config["vocab_size"] - 2))])
    writer.add_token_types([int(gguf.TokenType.NORMAL)] * config["vocab_size"])
    writer.add_token_merges(["t 0"])
    writer.add_eos_token_id(config["vocab_size"] - 1)


if __name__ == "__main__":
    main()
