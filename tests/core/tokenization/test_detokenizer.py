"""Deltas, joined, are the text of all ids decoded at once."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferplane.tokenization.detokenizer import Detokenizer
from inferplane.tokenization.tokenizer import Tokenizer


def deltas(tokenizer: Tokenizer, ids, prompt=(), skip=True, cut=lambda left: 1):
    detokenizer = Detokenizer(tokenizer, prompt, skip)
    pieces = []
    ids = list(ids)
    while ids:
        size = cut(len(ids))
        pieces.append(detokenizer.feed(ids[:size]))
        ids = ids[size:]
    return [*pieces, detokenizer.flush()]


@pytest.mark.case("detokenizer")
@pytest.mark.parametrize("skip", [True, False])
def test_deltas_of_random_ids_join_to_the_text_decoded_at_once(any_tokenizer, skip):
    rng = random.Random(7)
    for _ in range(2400):
        ids = [rng.randrange(any_tokenizer.vocab_size) for _ in range(rng.randrange(1, 30))]
        pieces = deltas(any_tokenizer, ids, skip=skip, cut=lambda left: rng.randint(1, 4))
        assert "".join(pieces) == any_tokenizer.decode(ids, skip)


@pytest.mark.parametrize("text", ["🎉🎉 party", "ab北京cd", "สวัสดี", "x👩‍👩‍👧y", "é" * 5])
def test_a_character_comes_whole_or_not_at_all(bytes_tokenizer, spm_tokenizer, text):
    for tokenizer in (bytes_tokenizer, spm_tokenizer):
        pieces = deltas(tokenizer, tokenizer.encode(text))
        assert "".join(pieces) == text
        assert not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=40))
def test_text_survives_encoding_and_decoding_in_deltas(bytes_tokenizer, text):
    ids = bytes_tokenizer.encode(text)
    assert "".join(deltas(bytes_tokenizer, ids, skip=False)) == text


def test_an_unfinished_character_at_the_end_becomes_one_replacement(bytes_tokenizer):
    ids = bytes_tokenizer.encode("\U0001f600")  # not in the corpus
    assert len(ids) > 1
    assert deltas(bytes_tokenizer, ids[:-1]) == [*[""] * (len(ids) - 1), "\ufffd"]


def test_output_finishes_the_character_that_the_prompt_began(bytes_tokenizer):
    ids = bytes_tokenizer.encode("\U0001f600")
    assert "".join(deltas(bytes_tokenizer, ids[1:], prompt=ids[:1])) == "\U0001f600"


def test_the_first_space_is_dropped_only_where_a_text_begins(spm_tokenizer):
    ids = spm_tokenizer.encode("the")
    assert "".join(deltas(spm_tokenizer, ids)) == "the"
    assert "".join(deltas(spm_tokenizer, ids, prompt=[1])) == "the"
    assert "".join(deltas(spm_tokenizer, ids, prompt=ids)) == " the"


def test_special_tokens_are_shown_only_on_demand(bytes_tokenizer):
    ids = [*bytes_tokenizer.encode("the"), *bytes_tokenizer.eos_ids]
    assert "".join(deltas(bytes_tokenizer, ids)) == "the"
    assert "".join(deltas(bytes_tokenizer, ids, skip=False)) == "the<|end|>"


@pytest.mark.case("detok-crash")
def test_ids_outside_the_vocabulary_have_no_text(bytes_tokenizer):
    ids = [bytes_tokenizer.vocab_size + 5, *bytes_tokenizer.encode("the"), 2**31 - 1]
    assert "".join(deltas(bytes_tokenizer, ids)) == "the"


def test_decoding_work_grows_linearly_with_the_number_of_tokens(any_tokenizer):
    calls = []

    class Counting(Detokenizer):
        def feed(self, ids):
            ids = list(ids)
            calls.append(len(ids) if self._window is None else len(self._window.ids))
            return super().feed(ids)

    rng = random.Random(3)
    counting = Counting(any_tokenizer)
    for _ in range(2000):
        counting.feed([rng.randrange(any_tokenizer.vocab_size)])
    assert sum(calls) < 2000 * 66
