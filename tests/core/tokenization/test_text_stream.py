"""Outputs of the engine as text deltas."""

import random

import pytest

from inferplane.engine.messages import SequenceOutput, TokenLogprobs
from inferplane.request import FinishReason
from inferplane.sampling_params import SamplingParams
from inferplane.tokenization.text_stream import TextStream


def outputs(ids, sizes, finish=FinishReason.LENGTH, logprobs=False, stop_reason=None):
    ids, turn = list(ids), 0
    while ids:
        size = sizes[turn % len(sizes)]
        part, ids = tuple(ids[:size]), ids[size:]
        yield SequenceOutput(
            "r",
            part,
            logprobs=tuple(TokenLogprobs((id,), (-0.5,)) for id in part) if logprobs else None,
            finish=None if ids else finish,
            stop_reason=None if ids else stop_reason,
        )
        turn += 1


def run(tokenizer, ids, params, sizes=(1,), prompt=(), **kwargs):
    stream = TextStream(tokenizer, params, prompt)
    found = [stream.feed(o) for o in outputs(ids, sizes, **kwargs)]
    return stream, [delta for delta in found if delta]


@pytest.mark.behaviour("S43")
def test_deltas_join_to_the_decoded_text_whatever_the_outputs_hold(any_tokenizer):
    rng = random.Random(1)
    for _ in range(300):
        ids = [rng.randrange(any_tokenizer.vocab_size) for _ in range(rng.randrange(1, 25))]
        _, found = run(any_tokenizer, ids, SamplingParams(), (1, 3, 2))
        assert "".join(d.text for d in found) == any_tokenizer.decode(ids)
        assert [id for d in found for id in d.token_ids] == ids


@pytest.mark.behaviour("S43")
@pytest.mark.parametrize("sizes", [(1,), (2, 1), (100,)])
def test_text_is_cut_before_a_stop_string_that_crosses_deltas(bytes_tokenizer, sizes):
    ids = bytes_tokenizer.encode("the river END of it")
    stream, found = run(bytes_tokenizer, ids, SamplingParams(stop=("r EN",)), sizes)
    assert "".join(d.text for d in found) == "the rive"
    assert found[-1].finish is FinishReason.STOP
    assert found[-1].stop_reason == "r EN"
    assert stream.stopped
    assert bytes_tokenizer.decode(ids[: stream.num_tokens - 1]).find("r EN") == -1


def test_after_a_stop_string_whatever_the_engine_still_sends_is_ignored(bytes_tokenizer):
    params = SamplingParams(stop=("b",))
    stream = TextStream(bytes_tokenizer, params, ())
    assert stream.feed(SequenceOutput("r", tuple(bytes_tokenizer.encode("ab")))).finish
    counted = stream.num_tokens
    late = stream.feed(SequenceOutput("r", (5, 6), finish=FinishReason.STOP))
    assert not late and late.token_ids == () and stream.num_tokens == counted


def test_stop_strings_in_the_first_min_tokens_do_not_count(bytes_tokenizer):
    ids = bytes_tokenizer.encode("x.y.z")
    params = SamplingParams(stop=(".",), min_tokens=2)
    _, found = run(bytes_tokenizer, ids, params)
    assert "".join(d.text for d in found) == "x.y"


def test_the_token_that_ended_the_sequence_is_counted_but_has_no_text(bytes_tokenizer):
    ids = bytes_tokenizer.encode("the.")
    kwargs = {"finish": FinishReason.STOP, "stop_reason": ids[-1]}
    stream, found = run(bytes_tokenizer, ids, SamplingParams(), **kwargs)
    assert "".join(d.text for d in found) == "the"
    assert stream.num_tokens == len(ids)
    assert found[-1].stop_reason == ids[-1]
    keep = SamplingParams(include_stop_str_in_output=True)
    _, found = run(bytes_tokenizer, ids, keep, **kwargs)
    assert "".join(d.text for d in found) == "the."


def test_a_stop_string_completed_by_the_last_token_beats_length(bytes_tokenizer):
    ids = bytes_tokenizer.encode("ab")
    _, found = run(bytes_tokenizer, ids, SamplingParams(stop=("b",)))
    assert (found[-1].finish, found[-1].stop_reason) == (FinishReason.STOP, "b")


@pytest.mark.parametrize("stops", [(), ("zzz",)])
def test_logprobs_and_offsets_are_the_same_however_outputs_are_cut(bytes_tokenizer, stops):
    ids = bytes_tokenizer.encode("a 🎉 \U0001f600 END")
    params = SamplingParams(logprobs=1, stop=stops)
    results = []
    for sizes in ((1,), (3, 2), (100,)):
        stream = TextStream(bytes_tokenizer, params, (), base_offset=10)
        found = [stream.feed(o) for o in outputs(ids, sizes, logprobs=True)]
        found = [d for d in found if d]
        results.append(
            (
                [e.ids for d in found for e in d.logprobs],
                [o for d in found for o in d.offsets],
            )
        )
    assert results[0] == results[1] == results[2]
    assert len(results[0][0]) == len(results[0][1]) == len(ids)
    assert results[0][1][0] == 10


def test_an_error_ends_the_stream_with_its_code(bytes_tokenizer):
    stream = TextStream(bytes_tokenizer, SamplingParams(), ())
    output = SequenceOutput("r", finish=FinishReason.ERROR, error="model_numerical_error")
    delta = stream.feed(output)
    assert (delta.finish, delta.error) == (FinishReason.ERROR, "model_numerical_error")
