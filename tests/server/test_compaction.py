"""/v1/responses/compact: the user's words stay, everything else becomes one item."""

import pytest

from inferplane.server.limits import Limits
from inferplane.server.schema.compaction import seal, unseal
from inferplane.server.schema.report import Report
from inferplane.server.schema.responses_chat import chat_messages, input_items
from inferplane.server.schema.responses_items import input_kind

PATH = "/v1/responses"
COMPACT = PATH + "/compact"
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "We launch on Tuesday."},
    {"role": "assistant", "content": "Understood."},
    {"type": "function_call", "call_id": "c", "name": "note", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "noted"},
    {"role": "user", "content": "And tell support."},
]


@pytest.fixture(scope="module")
def live(start):
    server = start(config={"max_model_len": 2048, "max_batched_tokens": 1024})
    server.wait_ready()
    return server


def compacted(http, **body):
    response = http.post(COMPACT, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_the_user_is_kept_and_one_summary_follows(http):
    made = compacted(http, model="tiny", input=TALK, prompt_cache_key="k")
    assert (made["object"], made["id"][:5]) == ("response.compaction", "resp_")
    *kept, last = made["output"]
    assert [one["content"][0]["text"] for one in kept] == [TALK[1]["content"], TALK[5]["content"]]
    assert {(one["type"], one["role"]) for one in kept} == {("message", "user")}
    assert (last["type"], last["id"][:4]) == ("compaction", "cmp_")
    assert unseal(last["encrypted_content"]) is not None
    usage = made["usage"]
    assert 0 < usage["output_tokens"] <= 1024
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_a_conversation_goes_on_from_its_compaction(http):
    output = compacted(http, input=TALK)["output"]
    asked = {"input": [*output, {"role": "user", "content": "when?"}], "max_output_tokens": 3}
    answer = http.post(PATH, json=asked)
    assert answer.status_code == 200 and answer.json()["output"][0]["type"] == "message"
    again = compacted(http, input=[*output, {"role": "user", "content": "when?"}])
    assert [one["type"] for one in again["output"]] == ["message"] * 3 + ["compaction"]


def test_a_summary_is_what_the_assistant_said():
    report = Report()
    items = [{"type": "compaction", "encrypted_content": seal("Tuesday.")}, TALK[5]]
    checked = input_kind(Limits()).check(items, "input", report)
    report.raise_problems()
    said, asked = chat_messages(input_items(checked), None)
    assert said["role"] == "assistant" and said["content"].endswith("Tuesday.")
    assert asked == {"role": "user", "content": "And tell support."}


def test_a_stored_answer_can_be_compacted(http):
    first = http.post(PATH, json={"input": "We launch on Tuesday.", "max_output_tokens": 3}).json()
    made = compacted(http, previous_response_id=first["id"])
    assert [one["type"] for one in made["output"]] == ["message", "compaction"]


def test_a_summary_takes_no_more_than_the_context_has(http):
    long = "a b c " * 400
    counted = http.post(PATH + "/input_tokens", json={"input": long}).json()["input_tokens"]
    made = compacted(http, input=long)
    assert made["usage"]["input_tokens"] > counted > 1024
    assert made["usage"]["total_tokens"] <= 2048


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "input", "missing_field"),
        ({"input": [{"type": "compaction"}]}, "input.0.encrypted_content", "missing_field"),
        (
            {"input": [{"type": "compaction", "encrypted_content": "gAAAAABpM0Yj"}]},
            "input.0.encrypted_content",
            "unknown_value",
        ),
        (
            {"previous_response_id": "resp_none"},
            "previous_response_id",
            "previous_response_not_found",
        ),
        ({"input": "a b " * 4000}, "input", "context_length_exceeded"),
    ],
)
def test_what_cannot_be_compacted_is_refused_by_name(http, body, param, code):
    response = http.post(COMPACT, json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code)


def test_strict_mode_wants_the_model(http):
    strict = {"x-inferplane-strict": "1"}
    response = http.post(COMPACT, json={"input": TALK}, headers=strict)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "model")
    named = {"input": TALK, "model": "tiny", "prompt_cache_key": "k"}
    assert http.post(COMPACT, json=named, headers=strict).status_code == 200


@pytest.mark.parametrize("content", ["", "x", "inferplane-1.%%", "inferplane-1.gA=="])
def test_only_sealed_content_is_read(content):
    assert unseal(content) is None
    assert unseal(seal(content)) == content
