"""Tokenizers from tokenizer.json and from GGUF metadata."""

import json

import pytest

from inferplane.checkpoint import Checkpoint
from inferplane.errors import ModelError
from inferplane.tokenization.gguf import backend_from_gguf
from inferplane.tokenization.pre_tokenizers import pre_tokenizer
from inferplane.tokenization.tokenizer import load_tokenizer


def checkpoint(root, **parts):
    empty = {
        "format": "none",
        "config": {},
        "generation_config": {},
        "tensors": {},
        "metadata": {},
        "tokenizer_file": None,
        "tokenizer_config": {},
        "chat_template": None,
    }
    return Checkpoint(root=root, **(empty | parts))


def gguf(backend, **more):
    """GGUF metadata of a byte-level BPE backend."""
    state = json.loads(backend.to_str())
    vocab = backend.get_vocab(with_added_tokens=True)
    tokens = sorted(vocab, key=vocab.__getitem__)
    special = {t["content"]: 3 if t["special"] else 4 for t in state["added_tokens"]}
    merges = state["model"]["merges"]
    named = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": [special.get(token, 1) for token in tokens],
        "merges": [" ".join(m) if isinstance(m, list) else m for m in merges],
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (named | more).items()}


TEXTS = ["the capital", "naïve  café\n\n 12345", "北京 🎉 x<|end|>y<tool call>z", "", " \t\n"]


def test_a_gguf_vocabulary_encodes_as_the_tokenizer_it_was_made_from(bytes_tokenizer, tmp_path):
    loaded = load_tokenizer(checkpoint(tmp_path, metadata=gguf(bytes_tokenizer.backend)))
    for text in TEXTS:
        assert loaded.encode(text) == bytes_tokenizer.encode(text)
        assert loaded.decode(loaded.encode(text), skip_special_tokens=False) == text
    assert loaded.special_ids == bytes_tokenizer.special_ids
    assert loaded.special_tokens == {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
    assert (loaded.bos_id, loaded.eos_ids) == (0, (1,))


def test_bos_is_added_where_the_file_or_the_family_says_so(bytes_tokenizer):
    for more, first in (
        ({}, []),
        ({"add_bos_token": True}, [0]),
        ({"pre": "llama-bpe"}, [0]),
        ({"pre": "llama-bpe", "add_bos_token": False}, []),
    ):
        backend, _, _ = backend_from_gguf(gguf(bytes_tokenizer.backend, **more), "x.gguf")
        with_it = backend.encode("the", add_special_tokens=True).ids
        assert with_it == first + backend.encode("the", add_special_tokens=False).ids


def test_end_ids_are_all_that_the_file_names(bytes_tokenizer):
    metadata = gguf(bytes_tokenizer.backend, eot_token_id=5, eom_token_id=1)
    assert backend_from_gguf(metadata, "x.gguf")[2] == (1, 5)


def test_sentencepiece_scores_decide_which_pair_merges_first():
    tokens = ["<unk>", "<s>", "</s>", "<0x0A>", "<0xC3>", "<0xA9>", "▁", "a", "b", "c"]
    tokens += ["ab", "bc", "▁a", "abc"]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [2, 3, 3, 6, 6, 6, *[1] * 8],
        "tokenizer.ggml.scores": [0.0] * 10 + [-2.0, -1.0, -5.0, -3.0],
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    backend, _, _ = backend_from_gguf(metadata, "x.gguf")
    assert backend.encode("abc", add_special_tokens=True).tokens == ["<s>", "▁", "abc"]
    assert backend.encode("abcé\n", add_special_tokens=False).tokens == [
        "▁",
        "abc",
        "<0xC3>",
        "<0xA9>",
        "<0x0A>",
    ]
    assert backend.encode("ab</s>ab", add_special_tokens=False).tokens == [
        "▁",
        "ab",
        "</s>",
        "▁",
        "ab",
    ]
    assert backend.decode(backend.encode("ab cé").ids) == "ab cé"


def test_a_space_prefix_is_added_only_when_the_file_wants_it():
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["▁", "a"],
        "tokenizer.ggml.scores": [0.0, 0.0],
        "tokenizer.ggml.add_space_prefix": False,
    }
    backend, _, _ = backend_from_gguf(metadata, "x.gguf")
    assert backend.encode("a").tokens == ["a"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "rwkv"}, "kind 'rwkv'"),
        ({"pre": "acme"}, "pre-tokenizer 'acme' is not one of"),
        ({"merges": ["the nowhere"]}, "merge 'the nowhere'"),
        ({"merges": None}, "tokenizer.ggml.merges is missing"),
        ({"tokens": ["a", "a"], "token_type": [1, 1]}, "stands in the vocabulary twice"),
        ({"token_type": [1]}, "1 token types"),
        ({"model": "llama"}, "tokenizer.ggml.scores is missing"),
    ],
)
def test_a_damaged_gguf_vocabulary_is_refused_by_name(bytes_tokenizer, change, said):
    with pytest.raises(ModelError, match="x.gguf") as caught:
        backend_from_gguf(gguf(bytes_tokenizer.backend, **change), "x.gguf")
    assert said in str(caught.value)


def test_patterns_of_every_family_lose_no_character(bytes_tokenizer):
    from inferplane.tokenization.pre_tokenizers import _table

    text = "I'M 1234567 naïve-тест?!\r\n\n  x = {a_b};  北京ひらがな… end "
    for name in _table():
        backend, _, _ = backend_from_gguf(gguf(bytes_tokenizer.backend, pre=name), "x.gguf")
        ids = backend.encode(text, add_special_tokens=False).ids
        assert backend.decode(ids, skip_special_tokens=False) == text, name


def test_digits_are_cut_as_the_family_cuts_them(bytes_tokenizer):
    def pieces(name, text):
        backend, _, _ = backend_from_gguf(gguf(bytes_tokenizer.backend, pre=name), "x.gguf")
        return [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)]

    assert pieces("smollm", "a1234") == ["a", "1", "2", "3", "4"]
    assert pieces("qwen2", "a1234") == ["a", "1", "2", "3", "4"]
    assert pieces("llama-bpe", "a1234") == ["a", "123", "4"]
    assert pieces("gpt-2", "a1234") == ["a", "1234"]
    assert pre_tokenizer("llama3").ignore_merges


def test_tokenizer_json_and_its_config_give_ids_and_named_tokens(bytes_tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    bytes_tokenizer.backend.save(str(path))
    config = {
        "eos_token": {"content": "<|end|>", "lstrip": False},
        "bos_token": "<|begin|>",
        "add_bos_token": True,
        "model_max_length": int(1e30),
        "tokenizer_class": "AcmeTokenizer",
    }
    loaded = load_tokenizer(checkpoint(tmp_path, tokenizer_file=path, tokenizer_config=config))
    assert loaded.special_tokens == {"eos_token": "<|end|>", "bos_token": "<|begin|>"}
    assert (loaded.bos_id, loaded.eos_ids) == (0, (1,))
    assert loaded.tokenizer_class == "AcmeTokenizer"
    assert loaded.model_max_length is None
    for text in TEXTS:
        assert loaded.encode(text) == bytes_tokenizer.encode(text)


def test_truncation_and_padding_of_the_file_are_switched_off(bytes_tokenizer, tmp_path):
    from tokenizers import Tokenizer as Backend

    backend = Backend.from_str(bytes_tokenizer.backend.to_str())
    backend.enable_truncation(2)
    backend.enable_padding(length=64)
    backend.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(checkpoint(tmp_path, tokenizer_file=tmp_path / "tokenizer.json"))
    assert loaded.encode("the capital of France") == bytes_tokenizer.encode("the capital of France")


def test_a_broken_or_missing_tokenizer_is_named(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text('{"model": 5}')
    with pytest.raises(ModelError, match="tokenizer.json"):
        load_tokenizer(checkpoint(tmp_path, tokenizer_file=path))
    with pytest.raises(ModelError, match="has no tokenizer"):
        load_tokenizer(checkpoint(tmp_path))


def test_a_lone_surrogate_is_a_value_error(bytes_tokenizer):
    with pytest.raises(ValueError, match="lone surrogate"):
        bytes_tokenizer.encode("a\ud800")


def test_the_bytes_of_a_token_are_exact(bytes_tokenizer, spm_tokenizer):
    for tokenizer in (bytes_tokenizer, spm_tokenizer):
        ids = tokenizer.encode("é 🎉 \U0001f600")
        joined = b"".join(tokenizer.token_bytes(id) for id in ids)
        assert joined.decode().removeprefix(" ") == "é 🎉 \U0001f600"
    assert bytes_tokenizer.token_bytes(10**6) == b""
    assert bytes_tokenizer.token_text(bytes_tokenizer.encode("<tool call>")[0]) == "<tool call>"


def test_decoding_agrees_with_the_library_on_byte_level_ids(bytes_tokenizer):
    import random

    rng = random.Random(5)
    for _ in range(1000):
        ids = [rng.randrange(bytes_tokenizer.vocab_size) for _ in range(rng.randrange(1, 30))]
        assert bytes_tokenizer.decode(ids) == bytes_tokenizer.backend.decode(ids)
