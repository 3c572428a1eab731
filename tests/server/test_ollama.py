"""Ollama's dialect: its fields as a chat, lines of JSON, what it tells of models, its errors."""

import asyncio
import json
from datetime import datetime
from pathlib import Path

import pytest

from inferplane.checkpoint import Checkpoint, TensorInfo
from inferplane.request import FinishReason
from inferplane.sampling_params import SamplingParams
from inferplane.server.answers.chat_events import ChoiceReader
from inferplane.server.answers.ollama import OllamaAnswer, OllamaForm
from inferplane.server.auth import Caller
from inferplane.server.generation import Choice, Order
from inferplane.server.model_facts import weight_facts
from inferplane.server.ollama_chat import chat_fields, generate_fields, names_of
from inferplane.server.prompts import Prompt
from inferplane.server.tools.formats import format_named
from inferplane.server.tools.stream import OutputParser
from inferplane.server.tools.values import Tool
from inferplane.tokenization.text_stream import TextDelta

CHAT, GENERATE = "/api/chat", "/api/generate"
HELLO = [{"role": "user", "content": "hello"}]
GREEDY = {"temperature": 0, "num_predict": 6}
TALK = {"model": "tiny", "messages": HELLO, "options": GREEDY}
SAY = {"model": "tiny", "prompt": "hello", "options": GREEDY}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def lines(response):
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.read().decode().splitlines()]


def whole(http, path, body):
    response = http.post(path, json=body | {"stream": False})
    assert response.status_code == 200, response.text
    return response.json()


def test_a_chat_streams_lines_that_join_to_the_whole_answer(http):
    with http.stream("POST", CHAT, json=TALK) as response:
        *pieces, last = lines(response)
    made = whole(http, CHAT, TALK)
    assert "".join(p["message"]["content"] for p in pieces) == made["message"]["content"]
    assert not any(piece["done"] for piece in pieces) and last["done"] is made["done"] is True
    assert last["message"] == {"role": "assistant", "content": ""}
    assert last["done_reason"] == made["done_reason"] == "length"
    assert last["eval_count"] == made["eval_count"] == 6
    assert last["prompt_eval_count"] == made["prompt_eval_count"] > 0
    for name in ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration"):
        assert type(last[name]) is int and last[name] >= 0
    assert last["total_duration"] >= last["eval_duration"]
    assert all(datetime.fromisoformat(piece["created_at"]) for piece in pieces)


def test_generate_streams_lines_and_takes_the_template_unless_it_is_raw(http):
    with http.stream("POST", GENERATE, json=SAY) as response:
        *pieces, last = lines(response)
    made = whole(http, GENERATE, SAY)
    assert "".join(piece["response"] for piece in pieces) == made["response"]
    assert last["response"] == "" and last["done_reason"] == "length"
    asked = http.post("/tokenize", json={"messages": HELLO}).json()["count"]
    assert made["prompt_eval_count"] == asked
    bare = http.post("/tokenize", json={"prompt": "hello"}).json()["count"]
    assert whole(http, GENERATE, SAY | {"raw": True})["prompt_eval_count"] == bare
    told = whole(http, GENERATE, SAY | {"system": "Be brief."})
    assert told["prompt_eval_count"] > asked


def test_the_same_options_give_the_text_of_the_chat_completions_route(http):
    body = {"messages": HELLO, "temperature": 0, "max_tokens": 6}
    text = http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    assert whole(http, CHAT, TALK)["message"]["content"] == text


def test_a_request_for_nothing_answers_that_the_model_is_loaded(http):
    assert http.post(CHAT, json={"model": "tiny"}).json()["done_reason"] == "load"
    made = http.post(GENERATE, json={"model": "tiny:latest", "keep_alive": 0}).json()
    assert (made["done"], made["done_reason"], made["response"]) == (True, "unload", "")


def test_stop_and_seed_and_a_limit_mean_what_they_do_elsewhere(http):
    text = whole(http, GENERATE, SAY)["response"]
    cut = text[len(text) // 2 :][:2]
    for stop in (cut, [cut]):
        made = whole(http, GENERATE, SAY | {"options": GREEDY | {"stop": stop}})
        assert made["response"] == text[: text.index(cut)] and made["done_reason"] == "stop"
    options = {"seed": 7, "num_predict": 8}
    drawn = [whole(http, GENERATE, SAY | {"options": options})["response"] for _ in range(2)]
    assert drawn[0] == drawn[1]


def test_logprobs_come_with_their_tokens(http):
    body = TALK | {"logprobs": True, "top_logprobs": 2}
    made = whole(http, CHAT, body)
    assert len(made["logprobs"]) == 6 and len(made["logprobs"][0]["top_logprobs"]) == 2
    with http.stream("POST", CHAT, json=body) as response:
        streamed = [entry for line in lines(response) for entry in line.get("logprobs", ())]
    assert [entry["token"] for entry in streamed] == [e["token"] for e in made["logprobs"]]


def test_json_and_schemas_constrain_the_answer(http):
    schema = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"]}
    body = TALK | {"format": schema | {"additionalProperties": False}, "options": {}}
    assert json.loads(whole(http, CHAT, body)["message"]["content"]) == {"a": 1}
    refused = http.post(CHAT, json=TALK | {"format": {"type": 5}})
    assert refused.status_code == 400 and refused.json()["error"].startswith("format")


def test_options_and_messages_are_those_of_a_chat():
    calls = [{"function": {"name": name, "arguments": {}}} for name in ("clock", "weather")]
    found = {
        "options": {"repeat_penalty": 1.1, "top_k": 3, "num_ctx": 9, "num_predict": 5},
        "think": True,
        "format": "json",
        "messages": [
            *HELLO,
            {"role": "assistant", "thinking": "hm", "tool_calls": calls},
            {"role": "tool", "tool_name": "weather", "content": "rain"},
            {"role": "tool", "content": "noon"},
        ],
    }
    fields = chat_fields(found)
    assert fields["repetition_penalty"] == 1.1 and fields["top_k"] == 3
    assert fields["reasoning_effort"] == "medium"
    assert fields["response_format"] == {"type": "json_object"}
    assert not {"num_ctx", "num_predict", "repeat_penalty"} & set(fields)
    _, said, first, second = fields["messages"]
    ids = [call["id"] for call in said["tool_calls"]]
    assert said["reasoning"] == "hm" and len(set(ids)) == 2
    assert (first["tool_call_id"], first["name"]) == (ids[1], "weather")
    assert (second["tool_call_id"], second["name"]) == (ids[0], "clock")
    quiet = generate_fields({"prompt": "a", "system": "b", "think": False})
    assert quiet["reasoning_effort"] == "none" and quiet["include_reasoning"] is False
    assert [m["role"] for m in quiet["messages"]] == ["system", "user"]
    assert names_of("prompt").param("messages") == "prompt"
    assert names_of("prompt").param("max_tokens") == "options.num_predict"


class Told:
    """A generation whose output is given; as much of one as answers look at."""

    def __init__(self, said, size):
        params = SamplingParams()
        self.order = Order([Prompt([1, 2])], params, "r", Caller("", frozenset()), 0.0)
        self.choices = [Choice(0, 0, type("Text", (), {"num_tokens": 3})())]
        self.said, self.size = said, size

    async def events(self):
        for at in range(0, len(self.said), self.size):
            yield self.choices[0], TextDelta(self.said[at : at + self.size])
        yield self.choices[0], TextDelta("", finish=FinishReason.STOP)


CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'


def answer(said, size, chat):
    parser = OutputParser(format_named("hermes"), {"weather": Tool("weather")}, thinking=False)
    return OllamaAnswer(OllamaForm("m", chat), Told(said, size), ChoiceReader(parser))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_thoughts_and_calls_are_members_of_the_message_streamed_or_not(size):
    said = "<think>\nhm\n</think>\n\nLook.\n" + CALL

    async def run(made):
        parts = [made.begin()]
        async for choice, delta in made.generation.events():
            parts.append(made.delta(choice, delta))
        return [json.loads(line) for line in b"".join([*parts, made.end()]).splitlines()]

    pieces = [line["message"] for line in asyncio.run(run(answer(said, size, True)))]
    message = json.loads(asyncio.run(answer(said, size, True).whole()))["message"]
    calls = [call for piece in pieces for call in piece.get("tool_calls", ())]
    assert "".join(piece["content"] for piece in pieces) == message["content"] == "Look."
    assert "".join(piece.get("thinking", "") for piece in pieces) == message["thinking"] == "hm"
    assert calls[0]["function"] == message["tool_calls"][0]["function"]
    assert calls[0]["function"] == {"name": "weather", "arguments": {"city": "Bern"}}
    generated = json.loads(asyncio.run(answer(said, size, False).whole()))
    assert generated["thinking"] == "hm" and generated["response"] == "Look."


def test_a_failure_in_a_stream_is_one_last_line(http, start):
    last = http.post("/tokenize", json={"messages": HELLO}).json()["tokens"][-1]
    server = start(options={"nan_token": str(last)})
    with server.client() as client, client.stream("POST", CHAT, json=TALK) as response:
        assert response.status_code == 200
        (line,) = lines(response)
    assert line["code"] == "model_numerical_error" and isinstance(line["error"], str)


def test_the_served_names_are_listed_with_what_is_known_of_the_model(http):
    rows = http.get("/api/tags").json()["models"]
    assert [row["name"] for row in rows] == ["tiny:latest", "alias:latest", "org/name:latest"]
    for row in rows:
        assert http.post("/api/show", json={"model": row["name"]}).status_code == 200
    first = rows[0]
    assert first["details"]["family"] == "llama" and first["details"]["format"] == "safetensors"
    assert first["size"] > 0 and len(first["digest"]) == 64
    (running,) = http.get("/api/ps").json()["models"]
    assert running["name"] == "tiny:latest" and running["context_length"] == 512
    assert http.get("/api/version").json()["version"] == http.get("/version").json()["version"]
    assert http.head("/").status_code == 200


def test_show_tells_what_the_command_line_reads_before_a_chat(http):
    shown = http.post("/api/show", json={"name": "tiny"}).json()
    assert shown["capabilities"] == ["completion", "tools"]
    info = shown["model_info"]
    assert info["general.architecture"] == "llama" and info["general.parameter_count"] > 0
    assert info["llama.context_length"] > 0 and "{% for m in messages %}" in shown["template"]


def test_what_has_no_effect_is_told(http):
    options = GREEDY | {"num_ctx": 100_000, "mirostat": 1, "num_gpu": 1}
    response = http.post(CHAT, json=TALK | {"options": options, "think": True, "stream": False})
    told = response.headers["x-inferplane-warnings"]
    for entry in (
        'clamped;param="options.num_ctx";to="512"',
        'ignored_field;param="options.mirostat"',
        'ignored_field;param="options.num_gpu"',
        'ignored_field;param="think"',
    ):
        assert entry in told
    small = TALK | {"options": GREEDY | {"num_ctx": 64}, "keep_alive": "5m", "stream": False}
    assert "x-inferplane-warnings" not in http.post(CHAT, json=small).headers


MALFORMED = [
    (CHAT, {"messages": HELLO}, "model", "missing_field"),
    (CHAT, TALK | {"model": "other"}, "model", "model_not_found"),
    (CHAT, TALK | {"model": 5}, "model", "invalid_type"),
    (CHAT, TALK | {"messages": "hi"}, "messages", "invalid_type"),
    (CHAT, TALK | {"messages": [{"content": "a"}]}, "messages.0.role", "missing_field"),
    (CHAT, TALK | {"messages": [{"role": "wizard"}]}, "messages.0.role", "unknown_value"),
    (
        CHAT,
        TALK | {"messages": [{"role": "user", "content": "a", "images": ["aGk="]}]},
        "messages.0.images",
        "unsupported_feature",
    ),
    (
        CHAT,
        TALK | {"messages": [{"role": "assistant", "tool_calls": [{}]}]},
        "messages.0.tool_calls.0.function",
        "missing_field",
    ),
    (CHAT, TALK | {"stream": 1}, "stream", "invalid_type"),
    (CHAT, TALK | {"tools": {}}, "tools", "invalid_type"),
    (CHAT, TALK | {"tools": [TOOL, TOOL]}, "tools", "conflicting_fields"),
    (CHAT, TALK | {"think": "a bit"}, "think", "unknown_value"),
    (CHAT, TALK | {"format": "yaml"}, "format", "unknown_value"),
    (CHAT, TALK | {"options": []}, "options", "invalid_type"),
    (CHAT, TALK | {"options": {"temperature": 9}}, "options.temperature", "out_of_range"),
    (CHAT, TALK | {"options": {"top_k": -1}}, "options.top_k", "out_of_range"),
    (CHAT, TALK | {"options": {"num_predict": 0}}, "options.num_predict", "out_of_range"),
    (CHAT, TALK | {"options": {"num_predict": 10_000}}, "max_tokens", "context_length_exceeded"),
    (CHAT, TALK | {"options": {"stop": [""]}}, "options.stop.0", "out_of_range"),
    (CHAT, TALK | {"top_logprobs": 2}, "top_logprobs", "conflicting_fields"),
    (GENERATE, SAY | {"prompt": 5}, "prompt", "invalid_type"),
    (GENERATE, SAY | {"suffix": "x"}, "suffix", "unsupported_feature"),
    (GENERATE, SAY | {"images": ["aGk="]}, "images", "unsupported_feature"),
    (GENERATE, SAY | {"prompt": "x" * 20_000}, "prompt", "context_length_exceeded"),
    (GENERATE, SAY | {"prompt": "x" * 20_000, "raw": True}, "prompt", "context_length_exceeded"),
    ("/api/show", {}, "model", "missing_field"),
    ("/api/show", {"model": "other"}, "model", "model_not_found"),
    ("/api/embed", {"model": "tiny"}, "input", "missing_field"),
    ("/api/embed", {"model": "tiny", "input": [5]}, "input.0", "invalid_type"),
    ("/api/pull", {"model": "x"}, "model", "route_not_found"),
]


@pytest.mark.parametrize("index", range(len(MALFORMED)))
def test_a_malformed_body_is_refused_in_the_dialects_shape(http, index):
    path, body, param, code = MALFORMED[index]
    response = http.post(path, json=body)
    said = response.json()
    assert response.status_code == (404 if code.endswith("not_found") else 400), said
    assert set(said) == {"error", "code", "hint"} and said["code"] == code, said
    if code not in ("model_not_found", "route_not_found", "context_length_exceeded"):
        assert param in said["error"]
    assert http.post(CHAT, json=TALK | {"stream": False}).status_code == 200


def test_without_its_key_the_answer_says_that_these_clients_send_none(start):
    from inferplane.api_keys import ApiKey

    server = start(api_keys=(ApiKey("k", b"0" * 32, ("infer",)),))
    with server.client() as client:
        response = client.get("/api/tags")
    assert response.status_code == 401 and "loopback" in response.json()["hint"]


def facts_of(tensors, quantization=None):
    """Facts of made-up tensors: (name, dtype, shape, bytes)."""
    made = {
        name: TensorInfo(name, dtype, shape, Path("f"), 0, size)
        for name, dtype, shape, size in tensors
    }
    checkpoint = Checkpoint(Path("f"), "safetensors", {}, {}, made, {}, None, {}, None)
    config = type("Config", (), {"architecture": "A", "quantization": quantization or {}})()
    return weight_facts(checkpoint, config)


def test_packed_weights_count_as_what_they_stand_for():
    plain = facts_of([("a.weight", "BF16", (10, 30), 600), ("n", "F32", (10,), 40)])
    assert (plain.parameters, plain.bytes, plain.quantization) == (310, 640, "BF16")
    assert list(plain.dtypes) == ["BF16", "F32"] and plain.dtypes["F32"].tensors == 1
    packed = facts_of(
        [
            ("a.qweight", "I32", (4, 30), 480),
            ("a.scales", "F16", (1, 30), 60),
            ("a.qzeros", "I32", (1, 4), 16),
        ],
        {"quant_method": "gptq", "bits": 4},
    )
    assert (packed.parameters, packed.quantization) == (960, "gptq-4bit")
    assert plain.digest != packed.digest
    assert packed.spoken_parameters == "960" and plain.spoken_parameters == "310"
    billion = facts_of([("a.weight", "BF16", (76_000, 100_000), 1)])
    assert billion.spoken_parameters == "7.6B"
