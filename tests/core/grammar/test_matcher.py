"""Where a sequence stands in its grammar follows from its tokens alone."""

import numpy as np
import pytest
from llguidance import LLMatcher

from inferplane.grammar.matcher import GrammarState
from inferplane.grammar.vocabulary import grammar_vocabulary
from inferplane.sampling_params import Grammar

WIDTH = 1024
TEXT = LLMatcher.grammar_from_lark('start: "ab" | "abc"\n')


@pytest.fixture(scope="module")
def vocabulary(tokenizer):
    return grammar_vocabulary(tokenizer, WIDTH, tokenizer.eos_ids)


@pytest.fixture
def make(vocabulary):
    def state(prompt=3, **more):
        grammar = Grammar(text=TEXT, **more)
        return GrammarState(grammar, LLMatcher(vocabulary, TEXT), prompt, WIDTH)

    return state


def allowed(row):
    return set(np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist())


def ids(tokenizer, text):
    return [id for c in text for id in tokenizer.encode(c)]


def test_only_tokens_that_continue_the_grammar_are_allowed(make, tokenizer):
    state, prompt = make(), [5, 6, 7]
    a, b, c = ids(tokenizer, "abc")
    first = allowed(state.mask(list(prompt)))
    assert a in first and b not in first and c not in first
    assert b in allowed(state.mask([*prompt, a]))
    last = allowed(state.mask([*prompt, a, b]))
    assert last == {c, *tokenizer.eos_ids}


def test_a_complete_grammar_allows_its_end_alone(make, tokenizer):
    state = make(prompt=0)
    assert allowed(state.mask(ids(tokenizer, "abc"))) == set(tokenizer.eos_ids)


def test_a_fresh_state_replays_to_the_same_place(make, tokenizer):
    tokens = [1, 2, 3, *ids(tokenizer, "ab")]
    stepwise, replayed = make(), make()
    for size in range(3, len(tokens) + 1):
        row = stepwise.mask(tokens[:size])
    assert (row == replayed.mask(tokens)).all()


def test_a_forbidden_token_fails_the_state_and_nothing_else(make, tokenizer):
    state = make(prompt=0)
    state.mask(ids(tokenizer, "x"))
    assert state.failed and not make().failed


def test_thinking_is_free_until_its_end(make, tokenizer):
    end = tuple(ids(tokenizer, "zz"))
    state = make(prompt=0, thinking=True, think_end=end)
    thought = ids(tokenizer, "qqz")
    assert state.mask([]) is None
    assert state.mask(thought) is None
    assert ids(tokenizer, "a")[0] in allowed(state.mask([*thought, end[-1]]))


def test_an_output_may_begin_to_think_where_the_model_can(make, tokenizer):
    (start,) = ids(tokenizer, "t")
    end = tuple(ids(tokenizer, "z"))
    state = make(prompt=0, think_start=(start,), think_end=end)
    first = allowed(state.mask([]))
    assert start in first and ids(tokenizer, "a")[0] in first
    assert state.mask([start]) is None
    after = allowed(state.mask([start, *ids(tokenizer, "q"), *end]))
    assert start not in after and not state.failed
    direct = make(prompt=0, think_start=(start,), think_end=end)
    assert start not in allowed(direct.mask(ids(tokenizer, "a")))


def test_ids_beyond_the_vocabulary_are_never_allowed(make, tokenizer):
    row = make(prompt=0).mask([])
    assert len(row) == WIDTH // 32
    assert max(allowed(row)) < tokenizer.vocab_size
