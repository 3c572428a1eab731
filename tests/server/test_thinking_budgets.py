"""Thoughts end where the request says, streamed or not."""

import json

import pytest

TEMPLATE = "{% for m in messages %}{{ m.content }}\n{% endfor %}<think>\n"
HELLO = [{"role": "user", "content": "hello"}]
MARK = "</think>"


@pytest.fixture(scope="module")
def live(start, tmp_path_factory):
    template = tmp_path_factory.mktemp("thinking") / "template.jinja"
    template.write_text(TEMPLATE)
    server = start(chat_template=template, config={"max_model_len": 4096})
    server.wait_ready()
    return server


def events(response):
    assert response.status_code == 200, response.text
    lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def chat(http, **more):
    asked = {"messages": HELLO, "max_tokens": 40, "temperature": 0, "return_token_ids": True}
    response = http.post("/v1/chat/completions", json=asked | more)
    assert response.status_code == 200, response.text
    return response.json()


def text_of(http, ids):
    return http.post("/detokenize", json={"tokens": ids}).json()["prompt"]


@pytest.mark.parametrize("budget", [0, 1, 7])
def test_a_chat_thinks_no_longer_than_its_budget(http, budget):
    free = chat(http)["choices"][0]
    assert MARK not in text_of(http, free["token_ids"])
    choice = chat(http, thinking_token_budget=budget)["choices"][0]
    end = http.post("/tokenize", json={"prompt": MARK, "add_special_tokens": False}).json()
    ids, mark = choice["token_ids"], end["tokens"]
    assert ids[:budget] == free["token_ids"][:budget]
    assert ids[budget : budget + len(mark)] == mark
    assert len(ids) == 40 and choice["message"]["content"]


def test_a_chat_streams_the_same(http):
    body = chat(http, thinking_token_budget=5)
    message = body["choices"][0]["message"]
    asked = {"messages": HELLO, "max_tokens": 40, "temperature": 0, "thinking_token_budget": 5}
    told = events(http.post("/v1/chat/completions", json=asked | {"stream": True}))
    deltas = [frame["choices"][0]["delta"] for frame in told]
    joined = {
        name: "".join(delta.get(name) or "" for delta in deltas)
        for name in ("reasoning", "content")
    }
    assert joined == {"reasoning": message["reasoning"] or "", "content": message["content"]}
    counted = body["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert bool(counted) is bool(message["reasoning"])


def test_every_choice_has_the_whole_budget(http):
    choices = chat(http, thinking_token_budget=3, n=3, temperature=1, seed=1)["choices"]
    assert all(text_of(http, one["token_ids"][3:]).startswith(MARK) for one in choices)


def test_an_answer_of_a_schema_follows_thoughts_that_were_ended(http):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["a", "b"]}}}
    choice = chat(http, thinking_token_budget=4, response_format=form)["choices"][0]
    assert json.loads(choice["message"]["content"]) in ("a", "b")
    assert choice["finish_reason"] == "stop"


def test_responses_think_no_longer_than_their_budget(http):
    asked = {"input": "hello", "max_output_tokens": 40, "temperature": 0}
    limited = asked | {"thinking_token_budget": 6}
    free = http.post("/v1/responses", json=asked).json()
    body = http.post("/v1/responses", json=limited).json()
    assert [item["type"] for item in free["output"]][:1] == ["reasoning"]
    assert body["output"][-1]["type"] == "message" and body["output"][-1]["content"][0]["text"]
    told = events(http.post("/v1/responses", json=limited | {"stream": True}))[-1]["response"]
    assert told["usage"] == body["usage"]
    assert told["output"][-1]["content"] == body["output"][-1]["content"]


def test_a_budget_below_minus_one_is_refused(http):
    response = http.post(
        "/v1/chat/completions", json={"messages": HELLO, "thinking_token_budget": -2}
    )
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "thinking_token_budget"
