"""Weights as numpy arrays are the weights that torch would get."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inferplane.checkpoint import open_checkpoint
from inferplane.checkpoint.arrays import iterate_arrays
from inferplane.errors import ModelError
from inferplane.loading.stream import iterate_weights
from inferplane.testing.tiny import write_tiny_model

gguf = pytest.importorskip("gguf")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_safetensors_read_as_torch_reads_them(tmp_path: Path, dtype: str) -> None:
    checkpoint = open_checkpoint(write_tiny_model(tmp_path, dtype=dtype, shards=2))
    ours = dict(iterate_arrays(checkpoint))
    theirs = dict(iterate_weights(checkpoint))
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, theirs[name].float().numpy(), err_msg=name)


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0", "Q4_K", "F16"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_gguf_blocks_read_as_torch_reads_them(tmp_path: Path, kind: str, architecture: str) -> None:
    checkpoint = open_checkpoint(_write_gguf(tmp_path / "m.gguf", architecture, kind))
    ours, theirs = dict(iterate_arrays(checkpoint)), dict(iterate_weights(checkpoint))
    assert ours.keys() == theirs.keys() and "model.layers.0.self_attn.q_proj.weight" in ours
    for name, values in ours.items():
        np.testing.assert_allclose(values, theirs[name].numpy(), atol=1e-6, err_msg=name)


def test_a_checkpoint_without_weights_says_so(
    tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    (tmp_path / "config.json").write_bytes((tiny_model() / "config.json").read_bytes())
    with pytest.raises(ModelError, match="holds no weights"):
        dict(iterate_arrays(open_checkpoint(tmp_path)))


def _write_gguf(path: Path, architecture: str, kind: str) -> Path:
    """A file with an embedding, a norm and a query projection, as the format's own library does."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (("embedding_length", 256), ("block_count", 1), ("context_length", 64)):
        getattr(writer, f"add_{key}")(value)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    rng = np.random.default_rng(3)
    kinds = gguf.GGMLQuantizationType
    writer.add_tensor("output_norm.weight", np.ones(256, np.float32))
    for name in ("token_embd.weight", "blk.0.attn_q.weight"):
        values = rng.normal(0, 1, (256, 256)).astype(np.float32)
        if kind == "Q4_K":  # the library only reads it: any bytes are codes, the scales are set
            raw = rng.integers(0, 256, (256, 144), dtype=np.uint8)
            raw[:, :4] = np.frombuffer(np.array([0.1, 0.2], np.float16).tobytes(), np.uint8)
        else:
            raw = gguf.quants.quantize(values, kinds[kind])
        writer.add_tensor(name, raw, raw_dtype=kinds[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
