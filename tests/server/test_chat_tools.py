"""Tools and thoughts in chat: what is accepted, what the prompt says, what goes over the wire."""

import asyncio
import json

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from inferplane.request import FinishReason
from inferplane.sampling_params import SamplingParams
from inferplane.server.answers.chat import ChatAnswer, ChatOptions
from inferplane.server.answers.chat_events import ChoiceReader
from inferplane.server.answers.frames import Head
from inferplane.server.answers.logprobs import TokenNames
from inferplane.server.auth import Caller
from inferplane.server.generation import Choice, Order
from inferplane.server.prompts import Prompt
from inferplane.server.tools.formats import format_named
from inferplane.server.tools.generic import told_in_text
from inferplane.server.tools.stream import OutputParser
from inferplane.server.tools.values import Tool
from inferplane.tokenization.text_stream import TextDelta, TextStream
from inferplane.tokenization.tokenizer import Tokenizer

PATH = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Looks out of the window.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'


def prompt_of(http, **body):
    ids = http.post("/tokenize", json={"messages": HELLO} | body).json()["tokens"]
    return http.post("/detokenize", json={"tokens": ids}).json()["prompt"]


def test_tools_unknown_to_the_template_are_told_in_the_system_message(http):
    told = prompt_of(http, tools=[WEATHER])
    assert told.startswith("<system># Tools") and '"name":"weather"' in told
    system = [{"role": "system", "content": "Be brief."}, *HELLO]
    assert prompt_of(http, messages=system, tools=[WEATHER]).startswith(
        "<system>Be brief.\n\n# Tools"
    )
    assert prompt_of(http, tools=[WEATHER], tool_choice="none") == prompt_of(http)


def test_calls_and_results_in_history_are_told_as_text(http):
    call = {"id": "c", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "noon"}]},
    ]
    told = prompt_of(http, messages=messages)
    assert '<assistant><tool_call>\n{"name":"clock","arguments":{}}\n</tool_call>' in told
    assert "<user><tool_response>\nnoon\n</tool_response>" in told


def test_without_tools_and_calls_the_conversation_is_left_alone():
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert told_in_text(messages, None) == messages


def test_a_chat_with_tools_is_answered(http):
    body = {"messages": HELLO, "tools": [WEATHER, CLOCK], "max_tokens": 4, "ignore_eos": True}
    response = http.post(PATH, json=body)
    assert response.status_code == 200
    assert response.json()["choices"][0]["finish_reason"] == "length"


def test_the_older_names_are_mapped_and_told(http):
    body = {"messages": HELLO, "functions": [WEATHER["function"]], "max_tokens": 1}
    response = http.post(PATH, json=body | {"function_call": "auto"})
    assert response.status_code == 200
    assert 'deprecated_field;param="functions"' in response.headers["x-inferplane-warnings"]
    newer = {"messages": HELLO, "tools": [WEATHER], "max_tokens": 1}
    counts = [http.post(PATH, json=b).json()["usage"]["prompt_tokens"] for b in (body, newer)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("param", "code", "body"),
    [
        ("tools", "out_of_range", {"tools": []}),
        ("tools", "invalid_type", {"tools": {}}),
        ("tools.0", "invalid_type", {"tools": ["weather"]}),
        ("tools.0.type", "missing_field", {"tools": [{"function": {"name": "a"}}]}),
        ("tools.0.type", "unsupported_feature", {"tools": [{"type": "custom"}]}),
        ("tools.0.type", "unknown_value", {"tools": [{"type": "web_search"}]}),
        ("tools.0.function", "missing_field", {"tools": [{"type": "function"}]}),
        (
            "tools.0.function.name",
            "missing_field",
            {"tools": [{"type": "function", "function": {}}]},
        ),
        (
            "tools.0.function.name",
            "unknown_value",
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        ),
        (
            "tools.0.function.name",
            "out_of_range",
            {"tools": [{"type": "function", "function": {"name": "a" * 65}}]},
        ),
        (
            "tools.0.function.parameters",
            "invalid_type",
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]},
        ),
        ("tools", "too_many_items", {"tools": [CLOCK] * 129}),
        ("tools", "conflicting_fields", {"tools": [CLOCK, CLOCK]}),
        ("tool_choice", "conflicting_fields", {"tool_choice": "required"}),
        ("tool_choice", "unknown_value", {"tools": [CLOCK], "tool_choice": "maybe"}),
        ("tool_choice.type", "missing_field", {"tools": [CLOCK], "tool_choice": {}}),
        (
            "tool_choice.function",
            "missing_field",
            {"tools": [CLOCK], "tool_choice": {"type": "function"}},
        ),
        (
            "tool_choice",
            "unknown_value",
            {
                "tools": [CLOCK],
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "name": "x"}]},
                },
            },
        ),
        ("parallel_tool_calls", "invalid_type", {"tools": [CLOCK], "parallel_tool_calls": "no"}),
        ("include_reasoning", "invalid_type", {"include_reasoning": 1}),
        ("reasoning_effort", "invalid_type", {"reasoning_effort": 3}),
    ],
)
def test_bad_tool_fields_are_named(http, param, code, body):
    response = http.post(PATH, json={"messages": HELLO, "max_tokens": 1} | body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code)


def test_an_effort_that_the_template_cannot_heed_is_noticed(http):
    body = {"messages": HELLO, "max_tokens": 1, "reasoning_effort": "high"}
    told = http.post(PATH, json=body).headers["x-inferplane-warnings"]
    assert 'ignored_field;param="reasoning_effort"' in told


def letters():
    """A vocabulary of single bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend)


class Scripted:
    """A generation whose outputs are given; as much of one as answers look at."""

    def __init__(self, tokenizer, texts, size):
        params = SamplingParams(n=len(texts))
        self.order = Order([Prompt([1, 2])], params, "r", Caller("", frozenset()), 0.0)
        self.choices = [Choice(i, 0, TextStream(tokenizer, params, ())) for i in range(len(texts))]
        self.texts, self.size = texts, size

    async def events(self):
        for choice, text in zip(self.choices, self.texts, strict=True):
            for at in range(0, len(text), self.size):
                yield choice, TextDelta(text[at : at + self.size], [7] * self.size)
            yield choice, TextDelta("", [9], finish=FinishReason.STOP)


def answer(texts, size=3, name="hermes", include_reasoning=True, tools=True):
    tokenizer = letters()
    offered = {"weather": Tool("weather"), "clock": Tool("clock")} if tools else {}

    def reader():
        parser = OutputParser(format_named(name), offered, thinking=False)
        return ChoiceReader(parser, include_reasoning)

    options = ChatOptions(TokenNames(tokenizer), reader, token_ids=True)
    head = Head("id", "chat.completion.chunk", "m", "f", 1)
    return ChatAnswer(head, Scripted(tokenizer, texts, size), options)


def whole(*args, **kwargs):
    return json.loads(asyncio.run(answer(*args, **kwargs).whole()))


def streamed(*args, **kwargs):
    made = answer(*args, **kwargs)

    async def run():
        parts = [made.begin()]
        async for choice, delta in made.generation.events():
            parts.append(made.delta(choice, delta))
        return b"".join([*parts, made.end()])

    events = asyncio.run(run()).decode().split("\n\n")[:-1]
    return [json.loads(event.removeprefix("data: ")) for event in events]


TEXTS = [
    "<think>\nhm\n</think>\n\nLet me see.\n" + CALL + "\n" + CALL.replace("Bern", "Rom"),
    "No call here.",
    "Broken <tool_call>x</tool_call> call",
]


def test_a_call_is_in_the_message_and_names_the_finish():
    made = whole(TEXTS)
    first, second, third = (choice["message"] for choice in made["choices"])
    assert first["content"] == "Let me see."
    assert first["reasoning"] == first["reasoning_content"] == "hm"
    calls = first["tool_calls"]
    assert [json.loads(c["function"]["arguments"])["city"] for c in calls] == ["Bern", "Rom"]
    assert len({c["id"] for c in calls}) == 2
    assert all(len(c["id"]) == 29 and c["id"].startswith("call_") for c in calls)
    assert [c["finish_reason"] for c in made["choices"]] == ["tool_calls", "stop", "stop"]
    assert second["content"] == "No call here." and "tool_calls" not in second
    assert third["content"] == "Broken <tool_call>x</tool_call> call"
    assert made["warnings"] == ["tool_call_unparsed"]
    assert made["usage"]["completion_tokens_details"]["reasoning_tokens"] == 2


def test_content_is_null_only_when_there_is_nothing_but_calls():
    assert whole([CALL])["choices"][0]["message"]["content"] is None
    assert whole([""])["choices"][0]["message"]["content"] == ""


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_stream_joins_to_the_message_whatever_the_deltas(size):
    expected = whole(TEXTS)
    joined = [{"content": "", "reasoning": "", "calls": {}, "ids": []} for _ in TEXTS]
    for chunk in streamed(TEXTS, size):
        for part in chunk["choices"]:
            into, delta = joined[part["index"]], part["delta"]
            into["content"] += delta.get("content") or ""
            into["reasoning"] += delta.get("reasoning") or ""
            assert delta.get("reasoning") == delta.get("reasoning_content")
            into["ids"] += part.get("token_ids", [])
            for call in delta.get("tool_calls", ()):
                if call["index"] not in into["calls"]:
                    assert call["type"] == "function" and call["function"]["arguments"] == ""
                    into["calls"][call["index"]] = [call["function"]["name"], ""]
                into["calls"][call["index"]][1] += call["function"]["arguments"]
            into["finish"] = part["finish_reason"]
    for into, choice in zip(joined, expected["choices"], strict=True):
        message = choice["message"]
        assert into["content"] == (message["content"] or "")
        assert into["reasoning"] == (message["reasoning"] or "")
        wanted = [
            [call["function"]["name"], call["function"]["arguments"]]
            for call in message.get("tool_calls", ())
        ]
        assert [into["calls"][i] for i in sorted(into["calls"])] == wanted
        assert into["finish"] == choice["finish_reason"]
        assert into["ids"][-1] == 9


def test_hidden_thoughts_are_counted_all_the_same():
    made = whole(TEXTS[:1], include_reasoning=False)
    assert made["choices"][0]["message"]["reasoning"] is None
    assert made["usage"]["completion_tokens_details"]["reasoning_tokens"] == 2
    assert not any(
        "reasoning" in part["delta"]
        for chunk in streamed(TEXTS[:1], include_reasoning=False)
        for part in chunk["choices"]
    )


def test_a_stream_says_at_the_end_of_a_choice_what_could_not_be_read():
    chunks = streamed(TEXTS[2:])
    assert [chunk.get("warnings") for chunk in chunks][-1] == ["tool_call_unparsed"]
