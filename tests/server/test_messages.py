"""The Messages dialect: its fields as a chat, its answers and events, its errors."""

import asyncio
import json

import pytest

from inferplane.request import FinishReason
from inferplane.sampling_params import SamplingParams
from inferplane.server.answers.chat_events import ChoiceReader
from inferplane.server.answers.messages import MessagesAnswer
from inferplane.server.auth import Caller
from inferplane.server.generation import Order
from inferplane.server.limits import Limits
from inferplane.server.messages_chat import chat_form
from inferplane.server.prompts import Prompt
from inferplane.server.schema.messages import messages_structure
from inferplane.server.schema.report import Report
from inferplane.server.tools.formats import format_named
from inferplane.server.tools.stream import OutputParser
from inferplane.server.tools.values import Tool
from inferplane.tokenization.text_stream import TextDelta

PATH = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
HELLO = [{"role": "user", "content": "hello"}]
BASE = {"messages": HELLO, "max_tokens": 4}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"name": "weather", "description": "Looks out.", "input_schema": SCHEMA}
USE = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Bern"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"}
IMAGE = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": "aGk="},
}


def form_of(keep_attribution=False, **body):
    """The chat of a good body, and what was noticed."""
    report = Report()
    found = messages_structure(Limits()).check(BASE | body, "", report)
    report.raise_problems()
    form = chat_form(found, report, keep_attribution=keep_attribution)
    report.raise_problems()
    return form, [(entry.code, entry.param) for entry in report.warnings.entries]


def chat_of(*messages, **body):
    if messages:
        body["messages"] = list(messages)
    return form_of(**body)[0].fields


def user(*content):
    return {"role": "user", "content": list(content)}


def assistant(*content):
    return {"role": "assistant", "content": list(content)}


def text(said):
    return {"type": "text", "text": said, "cache_control": {"type": "ephemeral"}}


def test_system_text_comes_first_and_roles_in_a_row_are_one_message():
    system = [text("Be brief."), text("Be kind.")]
    made = chat_of(user(text("a"), text("b")), {"role": "user", "content": "c"}, system=system)
    assert made["messages"] == [
        {"role": "system", "content": "Be brief.\nBe kind."},
        {"role": "user", "content": "a\nb\nc"},
    ]
    inside = chat_of(*HELLO, {"role": "system", "content": "now"}, *HELLO)["messages"]
    assert [message["role"] for message in inside] == ["user", "system", "user"]


def test_calls_results_and_thoughts_are_those_of_a_chat():
    thought = {"type": "thinking", "thinking": "rain?", "signature": "any"}
    failed = RESULT | {"content": [text("no"), text("wind")], "is_error": True}
    made = chat_of(
        *HELLO,
        assistant(thought, text("Let me look."), USE, USE | {"id": "toolu_2"}),
        user(RESULT, failed | {"tool_use_id": "toolu_2"}, text("Well?")),
    )
    said, first, second, asked = made["messages"][1:]
    assert said["content"] == "Let me look." and said["reasoning"] == "rain?"
    assert said["tool_calls"][0] == {
        "id": "toolu_1",
        "type": "function",
        "function": {"name": "weather", "arguments": {"city": "Bern"}},
    }
    assert first == {
        "role": "tool",
        "tool_call_id": "toolu_1",
        "name": "weather",
        "content": "rain",
    }
    assert second["content"] == "Error: no\nwind" and second["tool_call_id"] == "toolu_2"
    assert asked == {"role": "user", "content": "Well?"}


def test_a_plain_document_is_text_under_its_title():
    source = {"type": "text", "media_type": "text/plain", "data": "Body."}
    block = {"type": "document", "source": source, "title": "T", "context": "C"}
    assert chat_of(user(block))["messages"][0]["content"] == "T\nC\nBody."


def test_a_last_assistant_message_is_the_beginning_of_the_answer():
    assert chat_of(*HELLO, assistant(text("Once")))["continue_final_message"] is True
    assert "continue_final_message" not in chat_of(*HELLO, assistant(text("x"), USE))
    assert "continue_final_message" not in chat_of(*HELLO)


def test_the_agents_changing_line_is_removed_unless_it_is_to_be_kept():
    line = "x-anthropic-billing-header: cc_version=1; cch=abc;"
    for system in ([text(line), text("Rules.")], line + "\nRules."):
        assert chat_of(system=system)["messages"][0]["content"] == "Rules."
        kept = form_of(keep_attribution=True, system=system)[0].fields["messages"]
        assert kept[0]["content"] == line + "\nRules."
    assert [m["role"] for m in chat_of(system=line)["messages"]] == ["user"]


@pytest.mark.parametrize(
    ("choice", "wanted", "parallel"),
    [
        ({"type": "auto"}, "auto", True),
        ({"type": "any"}, "required", True),
        ({"type": "none"}, "none", True),
        ({"type": "auto", "disable_parallel_tool_use": True}, "auto", False),
        (
            {"type": "tool", "name": "weather"},
            {"type": "function", "function": {"name": "weather"}},
            True,
        ),
    ],
)
def test_the_choice_of_tools_is_that_of_a_chat(choice, wanted, parallel):
    made = chat_of(tools=[WEATHER | {"strict": True}], tool_choice=choice)
    function = {"name": "weather", "description": "Looks out.", "strict": True}
    assert made["tools"] == [{"type": "function", "function": {**function, "parameters": SCHEMA}}]
    assert made["tool_choice"] == wanted and made["parallel_tool_calls"] is parallel


def test_hosted_tools_are_dropped_and_told_and_paths_still_name_the_right_tool():
    hosted = {"type": "web_search_20250305", "name": "web_search"}
    form, noticed = form_of(tools=[hosted, WEATHER])
    assert [tool["function"]["name"] for tool in form.fields["tools"]] == ["weather"]
    assert ("tool_dropped", "tools.0.type") in noticed
    path = "tools.0.function.parameters/properties/city"
    assert form.names.param(path) == "tools.1.input_schema/properties/city"


@pytest.mark.parametrize(
    ("body", "effort", "shown", "name"),
    [
        ({}, None, True, "thinking"),
        ({"thinking": {"type": "adaptive"}}, None, True, "thinking"),
        ({"thinking": {"type": "disabled"}}, "none", False, "thinking"),
        ({"output_config": {"effort": "max"}}, "max", True, "output_config.effort"),
        (
            {"max_tokens": 2000, "thinking": {"type": "enabled", "budget_tokens": 1024}},
            "medium",
            True,
            "thinking",
        ),
    ],
)
def test_thinking_and_effort_are_those_of_a_chat(body, effort, shown, name):
    form, _ = form_of(**body)
    assert form.fields.get("reasoning_effort") == effort
    assert form.fields.get("include_reasoning", True) is shown
    assert form.names.param("reasoning_effort") == name


def test_the_budget_of_thoughts_is_that_of_a_chat_under_its_own_name():
    form, noticed = form_of(max_tokens=2000, thinking={"type": "enabled", "budget_tokens": 1500})
    assert form.fields["thinking_token_budget"] == 1500
    assert form.names.param("thinking_token_budget") == "thinking.budget_tokens"
    assert noticed == []
    form, _ = form_of(thinking={"type": "adaptive"})
    assert "thinking_token_budget" not in form.fields


def test_a_schema_of_the_answer_is_the_response_format_and_keeps_its_own_path():
    asked = {"type": "json_schema", "schema": SCHEMA}
    older, noticed = form_of(output_format=asked)
    form, _ = form_of(output_config={"format": asked})
    assert form.fields["response_format"] == older.fields["response_format"]
    assert form.fields["response_format"]["json_schema"]["schema"] == SCHEMA
    assert ("deprecated_field", "output_format") in noticed
    inner = "response_format.json_schema.schema/properties"
    assert form.names.param(inner) == "output_config.format.schema/properties"
    assert older.names.param(inner) == "output_format.schema/properties"


def test_an_answer_has_the_shape_of_the_dialect(http):
    response = http.post(PATH, json=BASE | {"temperature": 0, "metadata": {"user_id": "u"}})
    assert response.status_code == 200
    assert response.headers["request-id"] == response.headers["x-request-id"]
    assert "x-inferplane-warnings" not in response.headers
    body = response.json()
    assert body["id"].startswith("msg_") and len(body["id"]) == 28
    assert (body["type"], body["role"], body["model"]) == ("message", "assistant", "tiny")
    assert body["content"][0]["type"] == "text"
    assert (body["stop_reason"], body["stop_sequence"]) == ("max_tokens", None)
    usage = body["usage"]
    assert usage["output_tokens"] == 4 and usage["cache_creation_input_tokens"] == 0
    counted = http.post(COUNT, json={"messages": HELLO}).json()
    assert counted == {"input_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"]}


def test_tokens_are_counted_with_system_and_tools(http):
    sizes = [
        http.post(COUNT, json={"messages": HELLO} | more).json()["input_tokens"]
        for more in ({}, {"system": "Rules."}, {"system": "Rules.", "tools": [WEATHER]})
    ]
    assert sizes == sorted(sizes) and len(set(sizes)) == 3


def test_a_stop_sequence_is_named(http):
    body = BASE | {"max_tokens": 16, "temperature": 0}
    made = http.post(PATH, json=body).json()["content"][0]["text"]
    cut = made[len(made) // 2 :][:3]
    stopped = http.post(PATH, json=body | {"stop_sequences": [cut]}).json()
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", cut)
    assert stopped["content"][0]["text"] == made[: made.index(cut)]


def events_of(data):
    """(name, object) of each event; names and types must agree."""
    found = []
    for one in data.decode().split("\n\n")[:-1]:
        name, _, said = one.partition("\ndata: ")
        found.append((name.removeprefix("event: "), json.loads(said)))
    assert all(name == said["type"] for name, said in found)
    return found


def joined(events):
    """The message that events make; checks their order on the way."""
    names = [name for name, _ in events]
    assert names[:2] == ["message_start", "ping"]
    assert names[-2:] == ["message_delta", "message_stop"]
    assert names.count("message_start") == names.count("message_stop") == 1
    message = events[0][1]["message"]
    assert message["content"] == [] and message["stop_reason"] is None
    for name, said in events[2:-2]:
        if name == "content_block_start":
            assert said["index"] == len(message["content"])
            block = said["content_block"]
            assert block.get("text", "") == "" and block.get("input", {}) == {}
            message["content"].append(block | {"json": "", "open": True})
            continue
        block = message["content"][-1]
        assert block["open"] and said["index"] == len(message["content"]) - 1
        if name == "content_block_stop":
            block["open"] = False
            continue
        kind = said["delta"].pop("type")
        ((member, value),) = said["delta"].items()
        assert {"partial_json": "input_json_delta"}.get(member, f"{member}_delta") == kind
        member = "json" if member == "partial_json" else member
        block[member] = block.get(member, "") + value
    for block in message["content"]:
        assert block.pop("open") is False
        said = block.pop("json")
        if block["type"] == "tool_use":
            block["input"] = json.loads(said)
    usage = message["usage"] | events[-2][1]["usage"]
    return message | events[-2][1]["delta"] | {"usage": usage}


def test_a_stream_joins_to_the_whole_answer(http):
    body = BASE | {"max_tokens": 12, "temperature": 0}
    whole = http.post(PATH, json=body).json()
    with http.stream("POST", PATH, json=body | {"stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        made = joined(events_of(response.read()))
    assert made["usage"].pop("cache_read_input_tokens") >= 0
    for one in (made, whole):
        one.pop("id")
    assert made["content"] == whole["content"]
    assert made["stop_reason"] == whole["stop_reason"] == "max_tokens"
    assert made["usage"]["output_tokens"] == 12


CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'
OUTPUTS = [
    "<think>\nhm\n</think>\n\nLet me see.\n" + CALL + "\n" + CALL.replace("Bern", "Rom"),
    CALL,
    "Plain text.",
    "",
    "<think>\nonly thoughts",
    'Quotes "and" \\ slashes, 雪 and a </tool_call>',
]


class Told:
    """A generation whose output is given; as much of one as answers look at."""

    def __init__(self, said, size, end):
        self.order = Order([Prompt([1, 2])], SamplingParams(), "r", Caller("", frozenset()), 0.0)
        self.choices = []
        self.said, self.size, self.end = said, size, end

    async def events(self):
        for at in range(0, len(self.said), self.size):
            yield None, TextDelta(self.said[at : at + self.size])
        yield None, self.end


def answer(said, size=3, finish=FinishReason.STOP, stop_reason=None):
    parser = OutputParser(format_named("hermes"), {"weather": Tool("weather")}, thinking=False)
    end = TextDelta("", finish=finish, stop_reason=stop_reason)
    return MessagesAnswer("msg_1", "m", Told(said, size, end), ChoiceReader(parser), len)


def streamed(made):
    async def run():
        parts = [made.begin()]
        async for choice, delta in made.generation.events():
            parts.append(made.delta(choice, delta))
        return b"".join([*parts, made.end(), made.terminal])

    return events_of(asyncio.run(run()))


def without_ids(message):
    for block in message["content"]:
        if block["type"] == "tool_use":
            id = block.pop("id")
            assert id.startswith("toolu_") and len(id) == 30
    return message


@pytest.mark.parametrize("said", OUTPUTS)
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_events_join_to_the_message_whatever_the_deltas(said, size):
    whole = json.loads(asyncio.run(answer(said).whole()))
    assert without_ids(joined(streamed(answer(said, size)))) == without_ids(whole)
    assert whole["content"]


def test_thoughts_text_and_calls_are_blocks_in_their_order():
    made = json.loads(asyncio.run(answer(OUTPUTS[0]).whole()))
    thought, said, first, second = made["content"]
    assert thought["thinking"] == "hm" and len(thought["signature"]) == 64
    assert said == {"type": "text", "text": "Let me see.", "citations": None}
    assert first["name"] == "weather" and first["input"] == {"city": "Bern"}
    assert second["input"] == {"city": "Rom"} and first["id"] != second["id"]
    assert made["stop_reason"] == "tool_use"
    assert made["usage"]["output_tokens_details"] == {"thinking_tokens": 2}


def test_an_answer_is_taken_back_as_history_without_a_notice():
    made = json.loads(asyncio.run(answer(OUTPUTS[0]).whole()))
    history = [*HELLO, {"role": "assistant", "content": made["content"]}]
    form, noticed = form_of(messages=history, tools=[WEATHER])
    assert noticed == [] and len(form.fields["messages"][1]["tool_calls"]) == 2


@pytest.mark.parametrize(
    ("end", "reason", "sequence"),
    [
        ({}, "end_turn", None),
        ({"stop_reason": 7}, "end_turn", None),
        ({"stop_reason": "END"}, "stop_sequence", "END"),
        ({"finish": FinishReason.LENGTH}, "max_tokens", None),
    ],
)
def test_why_it_ended_has_the_dialects_names(end, reason, sequence):
    made = json.loads(asyncio.run(answer("a", **end).whole()))
    assert (made["stop_reason"], made["stop_sequence"]) == (reason, sequence)


def test_a_failure_in_a_stream_is_an_error_event_and_nothing_after_it(http, start):
    last = http.post("/tokenize", json={"messages": HELLO}).json()["tokens"][-1]
    server = start(Limits(ping_s=0.01), options={"step_ms": "60", "nan_token": str(last)})
    asked = BASE | {"stream": True}
    with server.client() as client, client.stream("POST", PATH, json=asked) as response:
        assert response.status_code == 200
        events = events_of(response.read())
    names = [name for name, _ in events]
    assert names[:2] == ["message_start", "ping"] and set(names[2:-1]) == {"ping"}
    error = events[-1][1]
    assert names[-1] == "error" and error["request_id"]
    assert error["error"]["code"] == "model_numerical_error"
    assert error["error"]["type"] == "api_error"


NO_MESSAGES = {"max_tokens": 4}
MALFORMED = [
    ({}, "messages", "missing_field"),
    (NO_MESSAGES, "messages", "missing_field"),
    ({"messages": HELLO}, "max_tokens", "missing_field"),
    (BASE | {"messages": []}, "messages", "out_of_range"),
    (BASE | {"messages": "hi"}, "messages", "invalid_type"),
    (BASE | {"messages": [5]}, "messages.0", "invalid_type"),
    (BASE | {"messages": [{"content": "a"}]}, "messages.0.role", "missing_field"),
    (BASE | {"messages": [{"role": "user"}]}, "messages.0.content", "missing_field"),
    (BASE | {"messages": [user()]}, "messages.0.content", "out_of_range"),
    (BASE | {"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role", "unknown_value"),
    (BASE | {"messages": [user("a")]}, "messages.0.content.0", "invalid_type"),
    (BASE | {"messages": [user({})]}, "messages.0.content.0.type", "missing_field"),
    (
        BASE | {"messages": [user({"type": "hologram"})]},
        "messages.0.content.0.type",
        "unknown_value",
    ),
    (
        BASE | {"messages": [user({"type": "text"})]},
        "messages.0.content.0.text",
        "missing_field",
    ),
    (BASE | {"messages": [user(IMAGE)]}, "messages.0.content.0.type", "unsupported_feature"),
    (
        BASE | {"messages": [user(RESULT | {"content": [IMAGE]})]},
        "messages.0.content.0.content.0.type",
        "unsupported_feature",
    ),
    (
        BASE | {"messages": [user({"type": "document", "source": {"type": "url", "url": "x"}})]},
        "messages.0.content.0.source.type",
        "unsupported_feature",
    ),
    (BASE | {"messages": [user(USE)]}, "messages.0.content.0.type", "unknown_value"),
    (
        BASE | {"messages": [*HELLO, assistant(RESULT)]},
        "messages.1.content.0.type",
        "unknown_value",
    ),
    (
        BASE | {"messages": [*HELLO, assistant(USE | {"input": "x"})]},
        "messages.1.content.0.input",
        "invalid_type",
    ),
    (
        BASE | {"messages": [user({"type": "tool_result"})]},
        "messages.0.content.0.tool_use_id",
        "missing_field",
    ),
    (BASE | {"max_tokens": 0}, "max_tokens", "out_of_range"),
    (BASE | {"max_tokens": "4"}, "max_tokens", "invalid_type"),
    (BASE | {"max_tokens": 4.0}, "max_tokens", "invalid_type"),
    (BASE | {"max_tokens": 10_000}, "max_tokens", "context_length_exceeded"),
    (BASE | {"model": "claude"}, "model", "model_not_found"),
    (BASE | {"system": 5}, "system", "invalid_type"),
    (BASE | {"system": [IMAGE]}, "system.0.type", "unsupported_feature"),
    (BASE | {"temperature": 2.5}, "temperature", "out_of_range"),
    (BASE | {"top_p": 0}, "top_p", "out_of_range"),
    (BASE | {"top_k": -2}, "top_k", "out_of_range"),
    (BASE | {"stream": "yes"}, "stream", "invalid_type"),
    (BASE | {"stop_sequences": "END"}, "stop_sequences", "invalid_type"),
    (BASE | {"stop_sequences": [""]}, "stop_sequences.0", "out_of_range"),
    (BASE | {"stop_sequences": ["a"] * 17}, "stop_sequences", "too_many_items"),
    (BASE | {"metadata": {"user_id": 5}}, "metadata.user_id", "invalid_type"),
    (BASE | {"thinking": {"type": "maybe"}}, "thinking.type", "unknown_value"),
    (
        BASE | {"thinking": {"type": "enabled"}},
        "thinking.budget_tokens",
        "missing_field",
    ),
    (
        BASE | {"thinking": {"type": "enabled", "budget_tokens": 512}},
        "thinking.budget_tokens",
        "out_of_range",
    ),
    (
        BASE | {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        "thinking.budget_tokens",
        "out_of_range",
    ),
    (BASE | {"output_config": {"effort": "heroic"}}, "output_config.effort", "unknown_value"),
    (
        BASE | {"output_config": {"format": {"type": "json_schema"}}},
        "output_config.format.schema",
        "missing_field",
    ),
    (
        BASE | {"output_config": {"format": {"type": "json_schema", "schema": {"type": 5}}}},
        "output_config.format.schema",
        "invalid_schema",
    ),
    (BASE | {"tools": {}}, "tools", "invalid_type"),
    (BASE | {"tools": ["weather"]}, "tools.0", "invalid_type"),
    (BASE | {"tools": [{"name": "a"}]}, "tools.0.input_schema", "missing_field"),
    (BASE | {"tools": [WEATHER | {"name": "a b"}]}, "tools.0.name", "unknown_value"),
    (BASE | {"tools": [WEATHER | {"type": "plug"}]}, "tools.0.type", "unknown_value"),
    (BASE | {"tools": [WEATHER | {"type": 5}]}, "tools.0.type", "invalid_type"),
    (BASE | {"tools": [WEATHER, WEATHER]}, "tools", "conflicting_fields"),
    (BASE | {"tools": [WEATHER], "tool_choice": "auto"}, "tool_choice", "invalid_type"),
    (BASE | {"tools": [WEATHER], "tool_choice": {}}, "tool_choice.type", "missing_field"),
    (
        BASE | {"tools": [WEATHER], "tool_choice": {"type": "tool"}},
        "tool_choice.name",
        "missing_field",
    ),
    (
        BASE | {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "clock"}},
        "tool_choice",
        "unknown_value",
    ),
    (BASE | {"tool_choice": {"type": "any"}}, "tool_choice", "conflicting_fields"),
    (
        BASE
        | {"tools": [{"type": "bash_20250124", "name": "bash"}], "tool_choice": {"type": "any"}},
        "tool_choice",
        "conflicting_fields",
    ),
]


@pytest.mark.parametrize("index", range(len(MALFORMED)))
def test_a_malformed_body_is_refused_in_the_dialects_shape(http, index):
    body, param, code = MALFORMED[index]
    response = http.post(PATH, json=body)
    said = response.json()
    assert response.status_code == (404 if code == "model_not_found" else 400), said
    assert said["type"] == "error" and said["request_id"] == response.headers["request-id"]
    error = said["error"]
    assert (error["param"], error["code"]) == (param, code), error
    kind = "not_found_error" if code == "model_not_found" else "invalid_request_error"
    assert error["type"] == kind and error["message"]
    assert http.post(PATH, json=BASE).status_code == 200


@pytest.mark.parametrize("path", [PATH, COUNT])
@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"messages": NaN}', b'"text"'])
def test_what_is_no_object_is_refused_on_both_routes(http, path, data):
    response = http.post(path, content=data, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_other_statuses_have_the_dialects_types(http, start):
    large = http.post(PATH, content=b"x" * (9 << 20), headers={"content-type": "application/json"})
    assert large.status_code == 413
    assert large.json()["error"]["type"] == "request_too_large"
    assert http.get(PATH).status_code == 405
    assert http.get(PATH).json()["error"]["type"] == "invalid_request_error"


def test_what_has_no_effect_is_told_in_a_header_and_refused_under_strict(http):
    body = BASE | {"service_tier": "auto", "mcp_servers": [{"url": "x"}], "top_pp": 1}
    headers = {"anthropic-version": "any", "anthropic-beta": "b-1"}
    response = http.post(PATH, json=body, headers=headers)
    told = response.headers["x-inferplane-warnings"]
    for entry in (
        'ignored_field;param="mcp_servers"',
        'ignored_field;param="anthropic-beta";value="b-1"',
        'unknown_field;param="top_pp";did_you_mean="top_p"',
    ):
        assert entry in told
    assert "service_tier" not in told
    refused = http.post(PATH, json=body, headers=headers | {"x-inferplane-strict": "1"})
    assert refused.status_code == 400
    thinking = BASE | {"thinking": {"type": "disabled"}}
    told = http.post(PATH, json=thinking).headers["x-inferplane-warnings"]
    assert told == 'ignored_field;param="thinking"'
