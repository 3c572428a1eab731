"""POST /v1/completions: what comes back, and that streams join to it."""

import json

import pytest

from inferplane.testing.null import null_tokens

PATH = "/v1/completions"


def post(http, **body):
    response = http.post(PATH, json={"temperature": 0} | body)
    assert response.status_code == 200, response.text
    return response.json()


def stream(http, path=PATH, **body):
    """All frames of a stream, parsed; asserts its form."""
    with http.stream("POST", path, json={"temperature": 0, "stream": True} | body) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-cache"
        text = response.read().decode()
    events = text.split("\n\n")
    assert events[-1] == "" and events[-2] == "data: [DONE]"
    assert text.count("[DONE]") == 1
    return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]


def joined(frames):
    """The choices of a stream in the shape of a whole answer."""
    choices = {}
    for frame in frames:
        for part in frame["choices"]:
            empty = {"index": part["index"], "text": "", "logprobs": None, "finish_reason": None}
            into = choices.setdefault(part["index"], empty)
            assert into["finish_reason"] is None, "a frame after the end of its choice"
            into["text"] += part["text"]
            if part["logprobs"] is not None:
                if into["logprobs"] is None:
                    into["logprobs"] = {name: [] for name in part["logprobs"]}
                for name, values in part["logprobs"].items():
                    into["logprobs"][name] += values
            into["finish_reason"] = part["finish_reason"]
            if part["finish_reason"] is not None:
                into["stop_reason"] = part["stop_reason"]
    return [choices[index] for index in sorted(choices)]


def ids_of(http, text):
    return http.post("/tokenize", json={"prompt": text}).json()["tokens"]


def test_the_tokens_are_those_of_the_device(http, live):
    ids = ids_of(http, "hello world")
    made = post(http, prompt=ids, max_tokens=6, return_token_ids=True)
    width = live.context.engine.info.vocab_size
    assert made["choices"][0]["token_ids"] == null_tokens(ids, 6, width)
    assert made["choices"][0]["prompt_token_ids"] == ids
    assert made["object"] == "text_completion" and made["id"].startswith("cmpl-")
    assert made["model"] == "tiny"


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "hello world", "max_tokens": 12},
        {"prompt": "hello world", "max_tokens": 12, "logprobs": 0},
        {"prompt": "hello world", "max_tokens": 12, "logprobs": 3, "echo": True},
        {"prompt": [[5, 6, 7], [8, 9]], "max_tokens": 7, "n": 3, "seed": 5, "temperature": 1},
        {"prompt": ["one", "two", "three"], "max_tokens": 5, "echo": True},
        {"prompt": "abc", "max_tokens": 20, "stop": ["e", "the"], "logprobs": 1},
        {"prompt": "score me", "max_tokens": 0, "echo": True, "logprobs": 2},
        {"prompt": [200, 201, 202], "max_tokens": 30, "logprobs": 1, "echo": True},
    ],
)
def test_a_stream_joins_to_the_whole_answer(http, body):
    whole = post(http, **body)
    frames = stream(http, **body, stream_options={"include_usage": True})
    assert joined(frames) == whole["choices"]
    assert frames[-1]["choices"] == []
    cached = [u["usage"].pop("prompt_tokens_details") for u in (whole, frames[-1])]
    assert cached[0]["cached_tokens"] <= cached[1]["cached_tokens"]
    assert frames[-1]["usage"] == whole["usage"]
    assert all(frame["usage"] is None for frame in frames[:-1])
    assert {frame["id"] for frame in frames} == {frames[0]["id"]}


def test_no_chunk_is_empty_but_the_finish(http):
    frames = stream(http, prompt=[220, 221, 222], max_tokens=40)
    for frame in frames:
        for choice in frame["choices"]:
            assert choice["text"] or choice["finish_reason"]


def test_choices_are_numbered_by_prompt_then_completion(http):
    made = post(http, prompt=["first", "second"], n=2, max_tokens=2, echo=True)
    assert [choice["index"] for choice in made["choices"]] == [0, 1, 2, 3]
    starts = [choice["text"][:5] for choice in made["choices"]]
    assert starts == ["first", "first", "secon", "secon"]
    assert made["usage"]["completion_tokens"] == 8


def test_equal_seeds_give_equal_outputs_and_children_differ(http):
    body = {"prompt": "seeded", "max_tokens": 16, "temperature": 2, "seed": 7, "n": 3}
    first, second = post(http, **body), post(http, **body)
    texts = [choice["text"] for choice in first["choices"]]
    assert texts == [choice["text"] for choice in second["choices"]]
    assert len(set(texts)) == 3


def test_text_and_its_ids_give_the_same_output(http):
    by_text = post(http, prompt="same thing", max_tokens=5)
    by_ids = post(http, prompt=ids_of(http, "same thing"), max_tokens=5)
    assert by_text["choices"] == by_ids["choices"]
    assert by_text["usage"]["prompt_tokens"] == len(ids_of(http, "same thing"))


def test_the_default_length_is_16_and_gives_way_to_the_context(http):
    assert post(http, prompt="a")["usage"]["completion_tokens"] == 16
    assert post(http, prompt=[5] * 505)["usage"]["completion_tokens"] == 7


def test_echo_with_no_tokens_scores_the_prompt_alone(http):
    ids = ids_of(http, "score this")
    made = post(http, prompt=ids, max_tokens=0, echo=True, logprobs=1)
    choice = made["choices"][0]
    assert choice["text"] == "score this"
    assert choice["finish_reason"] == "length"
    assert made["usage"]["completion_tokens"] == 0
    logprobs = choice["logprobs"]
    assert len(logprobs["tokens"]) == len(ids)
    assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
    for token, value, top in zip(
        logprobs["tokens"][1:],
        logprobs["token_logprobs"][1:],
        logprobs["top_logprobs"][1:],
        strict=True,
    ):
        assert top[token] == value  # exactly: evaluation tools compare these
        assert len(top) <= 2


def test_text_offsets_point_at_the_tokens(http):
    made = post(http, prompt="find me", max_tokens=6, echo=True, logprobs=0)
    choice = made["choices"][0]
    offsets = choice["logprobs"]["text_offset"]
    assert offsets[0] == 0 and offsets == sorted(offsets)
    for token, offset in zip(choice["logprobs"]["tokens"], offsets, strict=True):
        if not token.startswith(("bytes:", "<|")):  # the end token has no text
            assert choice["text"][offset:].lstrip("\ufffd").startswith(token)


def test_stop_cuts_before_the_string_and_says_which(http):
    free = post(http, prompt="stop here", max_tokens=40)["choices"][0]["text"]
    mark = next(c for c in free[3:] if c.isalpha() and c != "\ufffd")
    made = post(http, prompt="stop here", max_tokens=40, stop=[mark, None])["choices"][0]
    assert made["text"] == free[: free.index(mark)]
    assert (made["finish_reason"], made["stop_reason"]) == ("stop", mark)
    kept = {"stop": mark, "include_stop_str_in_output": True}
    made = post(http, prompt="stop here", max_tokens=40, **kept)["choices"][0]
    assert made["text"] == free[: free.index(mark) + 1]


def test_stop_token_ids_end_and_are_named(http, live):
    width = live.context.engine.info.vocab_size
    tokens = null_tokens([9, 9, 9], 3, width)
    made = post(http, prompt=[9, 9, 9], max_tokens=8, stop_token_ids=[tokens[2]])
    assert made["choices"][0]["finish_reason"] == "stop"
    assert made["choices"][0]["stop_reason"] == tokens[2]
    assert made["usage"]["completion_tokens"] == 3


def test_the_end_token_ends_without_a_text_or_a_reason(http, live):
    (end,) = live.context.loaded_model.eos_ids
    made = post(http, prompt="b", max_tokens=3, logit_bias={str(end): 100})
    choice = made["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("", "stop", None)
    assert made["usage"]["completion_tokens"] == 1
    more = {"ignore_eos": True, "skip_special_tokens": False}
    kept = post(http, prompt="b", max_tokens=2, logit_bias={str(end): 100}, **more)
    assert kept["choices"][0]["finish_reason"] == "length"
    assert kept["choices"][0]["text"]


def test_biased_allowed_and_forbidden_tokens(http):
    biased = post(http, prompt="b", max_tokens=3, logit_bias={"70": 100}, return_token_ids=True)
    assert biased["choices"][0]["token_ids"] == [70, 70, 70]
    allowed = post(
        http, prompt="b", max_tokens=6, allowed_token_ids=[65, 66], return_token_ids=True
    )
    assert set(allowed["choices"][0]["token_ids"]) <= {65, 66}
    word = http.post("/detokenize", json={"tokens": [70]}).json()["prompt"]
    body = {"prompt": "b", "max_tokens": 3, "logit_bias": {"70": 50, "71": 40}}
    banned = post(http, **body, bad_words=[word], return_token_ids=True)
    assert 70 not in banned["choices"][0]["token_ids"]


def test_tokens_can_be_written_as_ids(http):
    made = post(http, prompt="b", max_tokens=2, logprobs=1, return_tokens_as_token_ids=True)
    assert all(t.startswith("token_id:") for t in made["choices"][0]["logprobs"]["tokens"])


def test_token_ids_are_streamed_once_each(http):
    whole = post(http, prompt="ids", max_tokens=9, return_token_ids=True)["choices"][0]
    for echo in (False, True):
        frames = stream(http, prompt="ids", max_tokens=9, return_token_ids=True, echo=echo)
        parts = [c for f in frames for c in f["choices"]]
        assert [i for part in parts for i in part["token_ids"]] == whole["token_ids"]
        prompts = [part["prompt_token_ids"] for part in parts if "prompt_token_ids" in part]
        assert prompts == [whole["prompt_token_ids"]]


def test_prompt_logprobs_score_every_token_but_the_first(http):
    made = post(http, prompt=[5, 6, 7], max_tokens=1, prompt_logprobs=2)["choices"][0]
    scored = made["prompt_logprobs"]
    assert scored[0] is None and len(scored) == 3
    assert "6" in scored[1] and {"logprob", "rank", "decoded_token"} == set(scored[1]["6"])


def test_a_truncated_prompt_keeps_its_end_and_says_so(http):
    response = http.post(
        PATH, json={"prompt": [5, 6, 7, 8], "max_tokens": 1, "truncate_prompt_tokens": 2}
    )
    assert response.json()["usage"]["prompt_tokens"] == 2
    assert (
        'prompt_truncated;param="prompt";kept="2";of="4"'
        in response.headers["x-inferplane-warnings"]
    )
    right = post(
        http,
        prompt=[5, 6, 7, 8],
        max_tokens=1,
        truncate_prompt_tokens=2,
        truncation_side="right",
        return_token_ids=True,
    )
    assert right["choices"][0]["prompt_token_ids"] == [5, 6]
    assert post(http, prompt=[5] * 2000, max_tokens=4, truncate_prompt_tokens=-1)


def test_running_usage_comes_with_every_chunk_when_asked(http):
    options = {"include_usage": True, "continuous_usage_stats": True}
    frames = stream(http, prompt="count", max_tokens=6, stream_options=options)
    counts = [frame["usage"]["completion_tokens"] for frame in frames]
    assert counts == sorted(counts) and counts[-1] == 6


def test_timings_are_given_on_demand(http):
    told = post(http, prompt="time", max_tokens=4, timings=True)["timings"]
    assert set(told) == {
        "queue_ms",
        "prefill_ms",
        "ttft_ms",
        "decode_ms",
        "cached_tokens",
        "tokens_per_second",
    }
    assert told["ttft_ms"] > 0


def test_a_repeated_prefix_is_found_in_the_cache_and_a_salt_hides_it(http):
    body = {"prompt": [33, 34, 35] * 40, "max_tokens": 1}
    post(http, **body)
    again = post(http, **body)["usage"]["prompt_tokens_details"]["cached_tokens"]
    salted = post(http, **body, cache_salt="mine")["usage"]["prompt_tokens_details"]
    assert again >= 64
    assert salted["cached_tokens"] == 0


def test_min_tokens_hold_the_end_back(http, live):
    tokens = null_tokens([9, 9, 9], 8, live.context.engine.info.vocab_size)
    body = {"prompt": [9, 9, 9], "max_tokens": 8, "stop_token_ids": [tokens[0]]}
    assert post(http, **body)["usage"]["completion_tokens"] == 1
    assert post(http, **body, min_tokens=3)["usage"]["completion_tokens"] >= 3
