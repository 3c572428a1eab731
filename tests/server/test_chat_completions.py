"""POST /v1/chat/completions: what comes back, and that streams join to it."""

import json

import pytest

PATH = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]


def post(http, **body):
    response = http.post(PATH, json={"messages": HELLO, "temperature": 0} | body)
    assert response.status_code == 200, response.text
    return response.json()


def stream(http, **body):
    asked = {"messages": HELLO, "temperature": 0, "stream": True} | body
    with http.stream("POST", PATH, json=asked) as response:
        assert response.status_code == 200
        text = response.read().decode()
    events = text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]


def joined(frames):
    found = {}
    for frame in frames:
        assert frame["object"] == "chat.completion.chunk"
        for part in frame["choices"]:
            index = part["index"]
            if index not in found:
                assert part["delta"]["role"] == "assistant"
                assert part["logprobs"] is None
                found[index] = {"content": "", "logprobs": [], "finish_reason": None}
            into = found[index]
            assert into["finish_reason"] is None, "a frame after the end of its choice"
            into["content"] += part["delta"].get("content", "")
            into["logprobs"] += (part["logprobs"] or {"content": []})["content"]
            into["finish_reason"] = part["finish_reason"]
    return [found[index] for index in sorted(found)]


def flat(choice):
    return {
        "content": choice["message"]["content"],
        "logprobs": (choice["logprobs"] or {"content": []})["content"],
        "finish_reason": choice["finish_reason"],
    }


@pytest.mark.parametrize(
    "body",
    [
        {"max_tokens": 12},
        {"max_completion_tokens": 9, "logprobs": True},
        {"max_tokens": 9, "logprobs": True, "top_logprobs": 3},
        {"max_tokens": 8, "n": 3, "temperature": 1.5, "seed": 3},
        {"max_tokens": 30, "stop": ["e", "a"], "logprobs": True},
    ],
)
def test_a_stream_joins_to_the_whole_answer(http, body):
    whole = post(http, **body)
    frames = stream(http, **body, stream_options={"include_usage": True})
    assert joined(frames) == [flat(choice) for choice in whole["choices"]]
    assert frames[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert frames[-1]["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"]


def test_an_answer_has_every_field_of_the_api(http):
    made = post(http, max_tokens=3)
    assert made["object"] == "chat.completion" and made["id"].startswith("chatcmpl-")
    (choice,) = made["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["refusal"] is None and choice["message"]["annotations"] == []
    assert choice["logprobs"] is None and choice["finish_reason"] == "length"
    assert made["usage"]["total_tokens"] == made["usage"]["prompt_tokens"] + 3
    assert made["system_fingerprint"].startswith("fp_")


def test_logprobs_carry_exact_bytes(http):
    made = post(http, max_tokens=12, logprobs=True, top_logprobs=0)["choices"][0]
    data = bytes(byte for entry in made["logprobs"]["content"] for byte in entry["bytes"])
    assert data.decode("utf-8", "replace") == made["message"]["content"]
    assert all(entry["top_logprobs"] == [] for entry in made["logprobs"]["content"])
    three = post(http, max_tokens=2, logprobs=True, top_logprobs=3)["choices"][0]
    assert [len(entry["top_logprobs"]) for entry in three["logprobs"]["content"]] == [3, 3]


def test_tokenize_counts_what_chat_counts(http):
    for more in ({}, {"add_generation_prompt": False}, {"chat_template_kwargs": {"shout": True}}):
        count = http.post("/tokenize", json={"messages": HELLO, **more}).json()["count"]
        assert count == post(http, max_tokens=1, **more)["usage"]["prompt_tokens"]


def test_a_list_of_text_parts_equals_the_joined_string(http):
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    by_parts = post(http, messages=[{"role": "user", "content": parts}], max_tokens=4)
    by_text = post(http, messages=[{"role": "user", "content": "one\ntwo"}], max_tokens=4)
    assert by_parts["choices"] == by_text["choices"]


def test_the_developer_is_the_system_where_the_template_knows_no_other(http):
    def count(role):
        messages = [{"role": role, "content": "be brief"}, *HELLO]
        return http.post("/tokenize", json={"messages": messages}).json()["tokens"]

    assert count("developer") == count("system") != count("user")


def test_a_continued_message_is_echoed_on_demand(http):
    messages = [*HELLO, {"role": "assistant", "content": "The answer"}]
    body = {"messages": messages, "continue_final_message": True, "max_tokens": 4}
    plain = post(http, **body)["choices"][0]["message"]["content"]
    echoed = post(http, **body, echo=True)["choices"][0]["message"]["content"]
    assert echoed == "The answer" + plain
    assert joined(stream(http, **body, echo=True))[0]["content"] == echoed


def test_history_with_tool_calls_reaches_the_template(http):
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ]
    assert post(http, messages=messages, max_tokens=1)


def test_fields_of_hosted_services_are_noticed_not_refused(http):
    body = {
        "messages": HELLO,
        "max_tokens": 1,
        "store": True,
        "metadata": {"a": "b"},
        "service_tier": "flex",
        "user": "me",
        "safety_identifier": "x",
        "prompt_cache_key": "k",
        "response_format": {"type": "text"},
        "modalities": ["text"],
    }
    response = http.post(PATH, json=body)
    assert response.status_code == 200
    told = response.headers["x-inferplane-warnings"]
    for name in ("store", "metadata", "service_tier"):
        assert f'ignored_field;param="{name}"' in told
    for name in ("user", "safety_identifier", "prompt_cache_key", "response_format", "modalities"):
        assert f'param="{name}"' not in told


def test_unknown_fields_are_noticed_with_the_nearest_name_and_refused_when_strict(http):
    body = {"messages": HELLO, "max_tokens": 1, "temprature": 0.5, "zzz": 1}
    body["messages"] = [{"role": "user", "content": "hi", "contnt": 1}]
    response = http.post(PATH, json=body)
    assert response.status_code == 200
    told = response.headers["x-inferplane-warnings"]
    assert 'unknown_field;param="temprature";did_you_mean="temperature"' in told
    assert 'unknown_field;param="messages.0.contnt";did_you_mean="content"' in told
    strict = http.post(PATH, json=body, headers={"x-inferplane-strict": "1"})
    assert strict.status_code == 400
    assert {p["param"] for p in strict.json()["error"]["problems"]} == {
        "model",
        "temprature",
        "zzz",
        "messages.0.contnt",
    }


def test_many_notices_end_in_a_count(http):
    body = {"messages": HELLO, "max_tokens": 1} | {f"zz{i}": 1 for i in range(30)}
    told = http.post(PATH, json=body).headers["x-inferplane-warnings"]
    assert told.endswith("more;count=10")


def test_null_equals_left_out(http):
    body = {"messages": HELLO, "max_tokens": 3, "temperature": 0}
    nulls = dict.fromkeys(
        ("stop", "logprobs", "top_logprobs", "n", "seed", "tools", "stream", "stream_options")
    )
    with_nulls = http.post(PATH, json=body | nulls)
    assert with_nulls.status_code == 200
    assert with_nulls.json()["choices"] == post(http, max_tokens=3)["choices"]


def test_both_names_of_the_length_may_come_and_the_newer_wins(http):
    response = http.post(
        PATH, json={"messages": HELLO, "max_tokens": 9, "max_completion_tokens": 2}
    )
    assert response.json()["usage"]["completion_tokens"] == 2
    assert 'ignored_field;param="max_tokens"' in response.headers["x-inferplane-warnings"]


def test_headers_say_which_request_and_model(http):
    response = http.post(
        PATH,
        json={"messages": HELLO, "max_tokens": 1, "model": "alias"},
        headers={"x-request-id": "mine-1"},
    )
    assert response.headers["x-request-id"] == "mine-1"
    assert response.headers["x-inferplane-model"] == "tiny"
    assert response.json()["model"] == "tiny"
    assert int(response.headers["openai-processing-ms"]) >= 0
    odd = http.get("/v1/models", headers={"x-request-id": "no spaces allowed"})
    assert odd.headers["x-request-id"] != "no spaces allowed"


def test_two_requests_may_bear_the_same_id(http):
    headers = {"x-request-id": "twin"}
    body = {"messages": HELLO, "max_tokens": 2, "n": 2}
    assert [http.post(PATH, json=body, headers=headers).status_code for _ in range(2)] == [200] * 2
