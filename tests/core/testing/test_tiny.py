"""Tiny models are what they claim to be: a reference library and the kit's own decoder agree."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inferplane.checkpoint import Checkpoint, open_checkpoint
from inferplane.checkpoint.arrays import iterate_arrays
from inferplane.errors import ModelError
from inferplane.testing.reference import ReferenceModel
from inferplane.testing.tiny import TINY_MODELS, write_tiny_model
from inferplane.testing.tiny_tokenizer import EOS, SPECIAL_TOKENS, VOCAB_SIZE


def dict_of(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    return dict(iterate_arrays(checkpoint))


PROMPT = np.random.default_rng(1).integers(3, VOCAB_SIZE, 70).tolist()


@pytest.mark.parametrize("kind", TINY_MODELS)
def test_the_reference_decoder_agrees_with_the_reference_library(
    kind: str, tiny_model: Callable[..., Path]
) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = tiny_model(kind)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        want = theirs(torch.tensor([PROMPT])).logits[0].double().numpy()
    np.testing.assert_allclose(ReferenceModel(folder).logits(PROMPT), want, atol=1e-4)


@pytest.mark.parametrize("kind", TINY_MODELS)
def test_every_token_before_the_last_one_matters(
    kind: str, tiny_model: Callable[..., Path]
) -> None:
    """Otherwise a broken cache could not be seen in the output."""
    model = ReferenceModel(tiny_model(kind))
    changed = [PROMPT[0] + 1, *PROMPT[1:20]]
    difference = np.abs(model.logits(PROMPT[:20])[-1] - model.logits(changed)[-1]).max()
    assert difference > 1e-3


def test_equal_arguments_write_equal_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    a, b, c = (write_tiny_model(tmp_path / n, seed=s) for n, s in (("a", 1), ("b", 1), ("c", 2)))
    for file in sorted(path.name for path in a.iterdir()):
        assert (a / file).read_bytes() == (b / file).read_bytes(), file
    name = "model.safetensors"
    assert (a / name).read_bytes() != (c / name).read_bytes()


def test_shards_hold_every_tensor_once_and_the_index_says_where(tmp_path: Path) -> None:
    whole = dict_of(open_checkpoint(write_tiny_model(tmp_path / "one")))
    folder = write_tiny_model(tmp_path / "three", shards=3)
    parts = dict_of(open_checkpoint(folder))
    assert len(list(folder.glob("*.safetensors"))) == 3
    assert whole.keys() == parts.keys()
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize(("dtype", "bits"), [("bfloat16", 8), ("float16", 11)])
def test_narrow_types_round_to_nearest(tmp_path: Path, dtype: str, bits: int) -> None:
    wide = dict_of(open_checkpoint(write_tiny_model(tmp_path / "w")))
    narrow = dict_of(open_checkpoint(write_tiny_model(tmp_path / "n", dtype=dtype)))
    name = "model.embed_tokens.weight"
    bound = np.abs(wide[name]) * 2.0**-bits + 1e-7
    assert (np.abs(wide[name] - narrow[name]) <= bound).all()


def test_an_override_replaces_a_key_and_the_sizes_follow(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, overrides={"num_hidden_layers": 1, "hidden_size": 32})
    tensors = open_checkpoint(folder).tensors
    assert tensors["model.embed_tokens.weight"].shape == (VOCAB_SIZE, 32)
    assert not any(".layers.1." in name for name in tensors)


def test_the_tokenizer_has_the_vocabulary_of_the_models(tiny_model: Callable[..., Path]) -> None:
    from tokenizers import Tokenizer

    folder = tiny_model()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    assert tokenizer.token_to_id(SPECIAL_TOKENS[0]) == EOS
    text = "the user asked: où est 東京? 🗼"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert "messages" in json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]


def test_the_reference_refuses_what_it_cannot_read_exactly(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, overrides={"hidden_act": "relu"})
    with pytest.raises(ModelError, match="relu"):
        ReferenceModel(folder).logits([1, 2])
