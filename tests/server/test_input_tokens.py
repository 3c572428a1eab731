"""POST /v1/responses/input_tokens counts what a request would cost; strict mode guesses nothing."""

import pytest

PATH = "/v1/responses"
COUNT = "/v1/responses/input_tokens"
STRICT = {"x-inferplane-strict": "1"}
WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("more", [{}, {"instructions": "be brief"}, {"tools": [WEATHER]}])
def test_the_count_is_that_of_an_equal_request(http, more):
    body = {"input": "How many are these?"} | more
    made = http.post(PATH, json=body | {"max_output_tokens": 1}).json()
    counted = http.post(COUNT, json=body)
    assert counted.json() == {
        "object": "response.input_tokens",
        "input_tokens": made["usage"]["input_tokens"],
    }
    follows = {"input": "and these?", "previous_response_id": made["id"]}
    second = http.post(PATH, json=follows | {"max_output_tokens": 1}).json()
    number = http.post(COUNT, json=follows).json()["input_tokens"]
    assert number == second["usage"]["input_tokens"] > 2


def test_problems_of_a_count_have_the_names_of_its_fields(http):
    error = http.post(COUNT, json={"input": [{"role": "robot", "content": ""}]}).json()["error"]
    assert (error["param"], error["code"]) == ("input.0.role", "unknown_value")
    gone = http.post(COUNT, json={"input": "hi", "previous_response_id": "resp_none"})
    assert gone.json()["error"]["code"] == "previous_response_not_found"
    told = http.post(COUNT, json={"input": "hi", "max_output_tokens": 3})
    assert 'unknown_field;param="max_output_tokens"' in told.headers["x-inferplane-warnings"]
    assert http.get(COUNT).json()["error"]["code"] == "response_not_found"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 1}),
        ("/v1/completions", {"prompt": "a", "max_tokens": 1}),
        (PATH, {"input": "a", "max_output_tokens": 1}),
        (COUNT, {"input": "a"}),
        (PATH + "/compact", {"input": "a"}),
    ],
)
def test_strict_mode_takes_no_request_that_leaves_out_the_model(http, live, path, body):
    assert http.post(path, json=body).status_code == 200
    for absent in ({}, {"model": None}):
        refused = http.post(path, json=body | absent, headers=STRICT)
        error = refused.json()["error"]
        assert (refused.status_code, error["param"], error["code"]) == (
            400,
            "model",
            "missing_field",
        )
    named = body | {"model": live.context.card.name}
    assert http.post(path, json=named, headers=STRICT).status_code == 200
