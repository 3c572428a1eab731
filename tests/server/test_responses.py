"""POST /v1/responses and what is stored of it: fields, items, events, and who sees what."""

import asyncio
import hashlib
import json

import httpx2
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from inferplane.api_keys import ApiKey
from inferplane.request import FinishReason
from inferplane.sampling_params import SamplingParams
from inferplane.server.answers.chat_events import ChoiceReader
from inferplane.server.answers.responses import ResponseAnswer, response_head, wants_summary
from inferplane.server.answers.responses_items import ItemWriter
from inferplane.server.auth import Caller
from inferplane.server.errors import ApiError
from inferplane.server.generation import Choice, Order
from inferplane.server.limits import Limits
from inferplane.server.prompts import Prompt
from inferplane.server.schema.responses_chat import chat_messages, input_items
from inferplane.server.tools.formats import format_named
from inferplane.server.tools.stream import OutputParser
from inferplane.server.tools.values import Tool
from inferplane.tokenization.text_stream import TextDelta, TextStream
from inferplane.tokenization.tokenizer import Tokenizer

PATH = "/v1/responses"
WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
USER = {"role": "user", "content": "hi"}


def items(*given):
    return {"input": list(given)}


BAD = [
    ({"input": None}, "input", "missing_field"),
    ({"input": ""}, "input", "out_of_range"),
    ({"input": []}, "input", "out_of_range"),
    ({"input": 5}, "input", "invalid_type"),
    ({"input": {"role": "user"}}, "input", "invalid_type"),
    ({"input": [USER] * 4097}, "input", "too_many_items"),
    (items("hi"), "input.0", "invalid_type"),
    (items({}), "input.0.role", "missing_field"),
    (items({"role": "robot", "content": "a"}), "input.0.role", "unknown_value"),
    (items({"role": "user"}), "input.0.content", "missing_field"),
    (items({"role": "user", "content": []}), "input.0.content", "out_of_range"),
    (items({"role": "user", "content": [{}]}), "input.0.content.0.type", "missing_field"),
    (
        items({"role": "user", "content": [{"type": "input_image", "image_url": "http://x/"}]}),
        "input.0.content.0.type",
        "unsupported_feature",
    ),
    (
        items({"role": "user", "content": [{"type": "input_text"}]}),
        "input.0.content.0.text",
        "missing_field",
    ),
    (items({"type": "hologram"}), "input.0.type", "unknown_value"),
    (items({"type": "web_search_call"}), "input.0.type", "unsupported_feature"),
    (items({"type": "function_call", "name": "a"}), "input.0.call_id", "missing_field"),
    (items(USER, {"type": "function_call_output"}), "input.1.call_id", "missing_field"),
    (
        items({"type": "function_call_output", "call_id": "c", "output": 5}),
        "input.0.output",
        "invalid_type",
    ),
    (items({"type": "reasoning", "content": "a"}), "input.0.content", "invalid_type"),
    (items({"id": "msg_none"}), "input.0.id", "unknown_value"),
    (items({"type": "item_reference"}), "input.0.id", "missing_field"),
    ({"instructions": 5}, "instructions", "invalid_type"),
    ({"model": "gpt-5"}, "model", "model_not_found"),
    ({"max_output_tokens": 0}, "max_output_tokens", "out_of_range"),
    ({"max_output_tokens": True}, "max_output_tokens", "invalid_type"),
    ({"max_output_tokens": 9999}, "max_output_tokens", "context_length_exceeded"),
    ({"input": "a" * 600}, "input", "context_length_exceeded"),
    ({"input": "a" * 9000}, "input", "context_length_exceeded"),
    ({"temperature": 2.5}, "temperature", "out_of_range"),
    ({"top_p": 0}, "top_p", "out_of_range"),
    ({"top_logprobs": 21}, "top_logprobs", "out_of_range"),
    ({"store": "yes"}, "store", "invalid_type"),
    ({"stream": 1}, "stream", "invalid_type"),
    ({"stream_options": {}}, "stream_options", "conflicting_fields"),
    ({"background": True, "store": False}, "background", "conflicting_fields"),
    ({"truncation": "middle"}, "truncation", "unknown_value"),
    ({"include": ["everything"]}, "include.0", "unknown_value"),
    ({"metadata": {"a": 5}}, "metadata.a", "invalid_type"),
    ({"metadata": {"": "x"}}, "metadata.", "unknown_value"),
    ({"metadata": {str(i): "x" for i in range(17)}}, "metadata", "too_many_items"),
    ({"metadata": {"a": "x" * 513}}, "metadata.a", "out_of_range"),
    ({"previous_response_id": "resp_none"}, "previous_response_id", "previous_response_not_found"),
    ({"reasoning": "high"}, "reasoning", "invalid_type"),
    ({"conversation": "conv_1"}, "conversation", "unsupported_feature"),
    ({"prompt": {"id": "p"}}, "prompt", "unsupported_feature"),
    ({"moderation": {}}, "moderation", "unsupported_feature"),
    ({"tools": [{"type": "function"}]}, "tools.0.name", "missing_field"),
    ({"tools": [{"type": "robot"}]}, "tools.0.type", "unknown_value"),
    ({"tools": [WEATHER, WEATHER]}, "tools", "conflicting_fields"),
    (
        {"tools": [{"type": "custom", "name": "a", "format": {"type": "grammar"}}]},
        "tools.0.format.type",
        "unsupported_feature",
    ),
    ({"tool_choice": "required"}, "tool_choice", "conflicting_fields"),
    ({"tool_choice": {}}, "tool_choice.type", "missing_field"),
    ({"tool_choice": {"type": "web_search"}}, "tool_choice.type", "unsupported_feature"),
    (
        {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "clock"}},
        "tool_choice",
        "unknown_value",
    ),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type", "unknown_value"),
    (
        {"text": {"format": {"type": "json_schema", "name": "a"}}},
        "text.format.schema",
        "missing_field",
    ),
    (
        {"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "x"}}}},
        "text.format.schema",
        "invalid_schema",
    ),
]


@pytest.mark.parametrize(("body", "param", "code"), BAD)
def test_whatever_is_wrong_is_a_400_that_names_the_field(http, body, param, code):
    response = http.post(PATH, json={"input": "hi", "max_output_tokens": 2} | body)
    error = response.json()["error"]
    assert response.status_code == (404 if code == "model_not_found" else 400)
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] and error["message"] and "messages" not in error["message"]


def test_what_has_no_effect_is_told(http):
    body = {
        "input": "hi",
        "max_output_tokens": 1,
        "tools": [{"type": "web_search"}],
        "reasoning": {"effort": "high", "summary": "auto"},
        "include": ["reasoning.encrypted_content"],
        "max_tool_calls": 3,
        "service_tier": "flex",
        "text": {"verbosity": "low"},
    }
    response = http.post(PATH, json=body)
    assert response.status_code == 200
    told = response.headers["x-inferplane-warnings"]
    assert 'tool_dropped;param="tools.0"' in told
    for param in (
        "reasoning.effort",
        "include.0",
        "max_tool_calls",
        "service_tier",
        "text.verbosity",
    ):
        assert f'ignored_field;param="{param}"' in told
    strict = http.post(PATH, json=body, headers={"x-inferplane-strict": "1"})
    assert strict.status_code == 400


def events_of(response):
    """The JSON of every event; names and types must agree, and one [DONE] ends it."""
    *events, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    found = []
    for event in events:
        name, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def test_a_stream_ends_with_what_get_returns(http):
    body = {"input": "hello", "temperature": 0, "max_output_tokens": 4, "stream": True}
    response = http.post(PATH, json=body | {"metadata": {"a": "b"}, "user": "u"})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    found = events_of(response)
    types = [event["type"].removeprefix("response.") for event in found]
    assert types[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert set(types[4:-4]) == {"output_text.delta"}
    ends = ["output_text.done", "content_part.done", "output_item.done", "incomplete"]
    assert types[-4:] == ends
    whole = found[-1]["response"]
    assert whole == http.get(f"{PATH}/{whole['id']}").json()
    assert whole["incomplete_details"] == {"reason": "max_output_tokens"}
    assert whole["metadata"] == {"a": "b"} and whole["user"] == "u"
    text = "".join(e["delta"] for e in found if e["type"] == "response.output_text.delta")
    assert text == whole["output"][0]["content"][0]["text"] == found[-4]["text"]
    assert all(e["logprobs"] == [] for e in found if e["type"] == "response.output_text.delta")
    at_once = http.post(PATH, json=body | {"stream": False}).json()
    assert at_once["output"][0]["content"] == whole["output"][0]["content"]
    counts = [{**one["usage"], "input_tokens_details": 0} for one in (at_once, whole)]
    assert counts[0] == counts[1]


def test_log_probabilities_are_told_where_they_are_asked_for(http):
    body = {"input": "hi", "max_output_tokens": 3, "temperature": 0, "top_logprobs": 2}
    part = http.post(PATH, json=body).json()["output"][0]["content"][0]
    assert len(part["logprobs"]) == 3
    assert all(len(one["top_logprobs"]) == 2 for one in part["logprobs"])
    found = events_of(http.post(PATH, json=body | {"stream": True}))
    told = [one for e in found if e["type"].endswith("text.delta") for one in e["logprobs"]]
    assert told == part["logprobs"]


def test_an_answer_goes_on_from_a_stored_one(http):
    first = http.post(PATH, json={"input": "one", "max_output_tokens": 2}).json()
    body = {"input": "two", "max_output_tokens": 2, "previous_response_id": first["id"]}
    second = http.post(PATH, json=body | {"instructions": "be brief"}).json()
    assert second["previous_response_id"] == first["id"]
    listed = http.get(f"{PATH}/{second['id']}/input_items", params={"order": "asc"}).json()
    texts = [one["content"][0]["text"] for one in listed["data"]]
    assert texts == ["one", first["output"][0]["content"][0]["text"], "two"]
    assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"]
    referred = http.post(
        PATH, json=items({"type": "item_reference", "id": first["output"][0]["id"]}, USER)
    )
    assert referred.status_code == 200


def test_input_items_come_in_pages(http):
    given = [{"role": "user", "content": f"{n}"} for n in range(5)]
    made = http.post(PATH, json={"input": given, "max_output_tokens": 1}).json()
    path = f"{PATH}/{made['id']}/input_items"
    first = http.get(path, params={"limit": 2}).json()
    assert [one["content"][0]["text"] for one in first["data"]] == ["4", "3"]
    assert first["has_more"] and first["last_id"] == first["data"][-1]["id"]
    rest = http.get(path, params={"after": first["last_id"], "limit": 3}).json()
    assert [one["content"][0]["text"] for one in rest["data"]] == ["2", "1", "0"]
    assert not rest["has_more"]
    for bad in ({"limit": "0"}, {"limit": "x"}, {"order": "up"}, {"after": "msg_none"}):
        assert http.get(path, params=bad).status_code == 400


def test_what_is_not_stored_or_was_deleted_is_not_found(http):
    body = {"input": "hi", "max_output_tokens": 1}
    gone = http.post(PATH, json=body | {"store": False}).json()["id"]
    kept = http.post(PATH, json=body).json()["id"]
    deleted = http.delete(f"{PATH}/{kept}").json()
    assert deleted == {"id": kept, "object": "response", "deleted": True}
    for id in (gone, kept, "resp_none"):
        for answer in (
            http.get(f"{PATH}/{id}"),
            http.delete(f"{PATH}/{id}"),
            http.post(f"{PATH}/{id}/cancel"),
            http.get(f"{PATH}/{id}/input_items"),
        ):
            assert answer.status_code == 404
            assert answer.json()["error"]["code"] == "response_not_found"


def polled(http, id):
    while True:
        found = http.get(f"{PATH}/{id}").json()
        if found["status"] not in ("queued", "in_progress"):
            return found


def test_a_background_answer_is_polled(http):
    body = {"input": "hi", "max_output_tokens": 3, "background": True}
    made = http.post(PATH, json=body).json()
    assert made["status"] == "queued" and made["output"] == []
    found = polled(http, made["id"])
    assert found["status"] == "incomplete" and found["output"]
    assert http.post(f"{PATH}/{made['id']}/cancel").json()["status"] == "incomplete"
    foreground = http.post(PATH, json={"input": "hi", "max_output_tokens": 1}).json()
    refused = http.post(f"{PATH}/{foreground['id']}/cancel")
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "id"


def test_a_cancelled_answer_stays_cancelled(start):
    server = start(options={"step_ms": "50"})
    with server.client() as http:
        body = {"input": "hi", "max_output_tokens": 400, "background": True}
        made = http.post(PATH, json=body).json()
        follows = {"input": "x", "previous_response_id": made["id"]}
        early = http.post(PATH, json=follows)
        assert early.json()["error"]["code"] == "previous_response_not_found"
        assert http.post(f"{PATH}/{made['id']}/cancel").json()["status"] == "cancelled"
        assert http.get(f"{PATH}/{made['id']}").json()["status"] == "cancelled"
        deleted = http.post(PATH, json=body).json()
        assert http.delete(f"{PATH}/{deleted['id']}").status_code == 200
        assert http.get(f"{PATH}/{deleted['id']}").status_code == 404


def test_the_events_of_a_background_answer_can_be_read_again(http):
    body = {"input": "hi", "max_output_tokens": 3, "background": True, "stream": True}
    found = events_of(http.post(PATH, json=body))
    types = [event["type"] for event in found[:3]]
    assert types == ["response.created", "response.queued", "response.in_progress"]
    id = found[-1]["response"]["id"]
    again = http.get(f"{PATH}/{id}", params={"stream": "true", "starting_after": "2"})
    *rest, done, _ = again.text.split("\n\n")
    assert done == "data: [DONE]"
    told = [json.loads(one.split("\n")[1].removeprefix("data: ")) for one in rest]
    assert told == found[3:]
    plain = http.post(PATH, json={"input": "hi", "max_output_tokens": 1}).json()["id"]
    assert http.get(f"{PATH}/{plain}", params={"stream": "true"}).status_code == 400
    assert http.get(f"{PATH}/{plain}", params={"starting_after": "1"}).status_code == 400
    assert http.get(f"{PATH}/{plain}", params={"stream": "maybe"}).status_code == 400


def test_truncation_leaves_out_old_items_and_says_so(http):
    given = [
        {"role": "system", "content": "be brief"},
        *({"role": "user", "content": f"{n} " + "word " * 20} for n in range(20)),
    ]
    body = {"input": given, "max_output_tokens": 2}
    assert http.post(PATH, json=body).json()["error"]["code"] == "context_length_exceeded"
    cut = http.post(PATH, json=body | {"truncation": "auto"})
    assert cut.status_code == 200 and cut.json()["truncation"] == "auto"
    assert 'prompt_truncated;param="input"' in cut.headers["x-inferplane-warnings"]
    assert cut.json()["usage"]["input_tokens"] > 200
    whole = http.post(PATH, json={"input": "a", "max_output_tokens": 2, "truncation": "auto"})
    assert "prompt_truncated" not in whole.headers.get("x-inferplane-warnings", "")


def key(name):
    return ApiKey(name, hashlib.sha256(name.encode()).digest())


def test_stored_answers_belong_to_the_key_that_made_them(start):
    server = start(api_keys=(key("ann"), key("bob")), limits=Limits(stored_responses=2))
    with server.client("ann") as ann, server.client("bob") as bob:
        body = {"input": "hi", "max_output_tokens": 1}
        ids = [ann.post(PATH, json=body).json()["id"] for _ in range(3)]
        assert [ann.get(f"{PATH}/{id}").status_code for id in ids] == [404, 200, 200]
        assert bob.get(f"{PATH}/{ids[2]}").status_code == 404
        assert bob.delete(f"{PATH}/{ids[2]}").status_code == 404
        stolen = bob.post(PATH, json=body | {"previous_response_id": ids[2]})
        assert stolen.json()["error"]["code"] == "previous_response_not_found"


def test_stored_answers_survive_a_restart_and_broken_off_ones_have_failed(start, tmp_path):
    first = start(state=tmp_path / "state", options={"step_ms": "20"})
    with first.client() as http:
        done = http.post(PATH, json={"input": "hi", "max_output_tokens": 1}).json()
        body = {"input": "hi", "max_output_tokens": 400, "background": True}
        broken = http.post(PATH, json=body).json()
        first.server.context.lifecycle.shutdown_timeout_s = 0.0
        first.stop()
    second = start(state=tmp_path / "state")
    with second.client() as http:
        assert http.get(f"{PATH}/{done['id']}").json() == done
        assert http.get(f"{PATH}/{broken['id']}").json()["status"] == "failed"
    second.stop()


def test_items_become_the_messages_of_a_chat():
    given = [
        {"type": "message", "role": "developer", "content": "Be kind."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": "wait"},
        {"type": "function_call", "call_id": "a", "name": "clock", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "b", "name": "shell", "input": "ls"},
        {"type": "function_call_output", "call_id": "a", "output": "noon"},
        {
            "type": "custom_tool_call_output",
            "call_id": "b",
            "output": [{"type": "input_text", "text": "x"}],
        },
        {"type": "message", "role": "assistant", "content": "It is noon."},
    ]
    assert chat_messages(input_items(given), "Be brief.") == [
        {"role": "system", "content": "Be brief.\n\nBe kind."},
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": "wait",
            "reasoning": "hm",
            "tool_calls": [
                {
                    "id": "a",
                    "type": "function",
                    "function": {"name": "clock", "arguments": "{}"},
                },
                {
                    "id": "b",
                    "type": "function",
                    "function": {"name": "shell", "arguments": '{"input":"ls"}'},
                },
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "noon"},
        {"role": "tool", "tool_call_id": "b", "content": "x"},
        {"role": "assistant", "content": "It is noon."},
    ]


def letters():
    """A vocabulary of single bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend)


class Spoken:
    """A generation whose one output is given; as much of one as answers look at."""

    class serving:
        class model:
            tokenizer = letters()

    def __init__(self, text, size, finish=FinishReason.STOP):
        params = SamplingParams()
        tokenizer = self.serving.model.tokenizer
        self.order = Order([Prompt([1, 2])], params, "r", Caller("", frozenset()), 0.0)
        self.choices = [Choice(0, 0, TextStream(tokenizer, params, ()))]
        self.text, self.size, self.finish = text, size, finish

    async def events(self):
        for at in range(0, len(self.text), self.size):
            yield self.choices[0], TextDelta(self.text[at : at + self.size], [7])
        yield self.choices[0], TextDelta("", [9], finish=self.finish)


def answer(text, size, tell, finish=FinishReason.STOP, **found):
    generation = Spoken(text, size, finish)
    offered = {"weather": Tool("weather"), "shell": Tool("shell")}
    parser = OutputParser(format_named("hermes"), offered, thinking=False)
    kept = []
    writer = ItemWriter(tell, frozenset(("shell",)), summarise=wants_summary(found))
    head = response_head("resp_1", found, "m", generation)
    made = ResponseAnswer(head, generation, ChoiceReader(parser), writer, None, kept.append)
    return made, kept


SPOKEN = (
    "<think>\nhm, \n</think>\n\nLet me see.\n"
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "shell", "arguments": {"input": "ls -l"}}\n</tool_call>'
)


def streamed(text, size, finish=FinishReason.STOP, **found):
    made, kept = answer(text, size, True, finish, **found)

    async def run():
        parts = [made.begin()]
        async for choice, delta in made.generation.events():
            parts.append(made.delta(choice, delta))
        return b"".join([*parts, made.end()])

    frames = asyncio.run(run()).decode().split("\n\n")[:-1]
    return [json.loads(frame.split("\n")[1].removeprefix("data: ")) for frame in frames], kept


def shape(items):
    """Items without their ids."""
    return [{k: v for k, v in one.items() if k not in ("id", "call_id")} for one in items]


def test_thoughts_are_their_own_summary_where_one_is_asked_for():
    found, kept = streamed(SPOKEN, 3, reasoning={"summary": "auto"})
    told = [event for event in found if "reasoning_summary" in event["type"]]
    assert [event["type"].removeprefix("response.reasoning_summary_") for event in told] == [
        "part.added",
        "text.delta",
        "text.done",
        "part.done",
    ]
    part = {"type": "summary_text", "text": "hm,"}
    assert told[0]["part"] == part | {"text": ""} and told[3]["part"] == part
    assert told[1]["delta"] == told[2]["text"] == "hm,"
    thought = kept[-1]["output"][0]
    assert thought["summary"] == [part] and thought["content"][0]["text"] == "hm,"
    assert kept[-1]["reasoning"]["summary"] == "detailed"
    assert streamed(SPOKEN, 3)[1][-1]["output"][0]["summary"] == []


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_thoughts_text_and_calls_are_items_in_their_order(size):
    found, kept = streamed(SPOKEN, size)
    types = [event["type"].removeprefix("response.") for event in found]
    collapsed = [one for i, one in enumerate(types) if i == 0 or one != types[i - 1]]
    part, item = ["content_part.done", "output_item.done"], ["output_item.added"]
    assert collapsed == [
        "created",
        "in_progress",
        *item,
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        *part,
        *item,
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        *part,
        *item,
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        *item,
        "custom_tool_call_input.delta",
        "custom_tool_call_input.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    output = found[-1]["response"]["output"]
    assert [one["type"] for one in output] == [
        "reasoning",
        "message",
        "function_call",
        "custom_tool_call",
    ]
    assert [one["id"].split("_")[0] for one in output] == ["rs", "msg", "fc", "ctc"]
    assert all(one["status"] == "completed" for one in output)
    assert json.loads(output[2]["arguments"]) == {"city": "Bern"}
    assert output[3]["input"] == "ls -l"
    done = [event["item"] for event in found if event["type"] == "response.output_item.done"]
    assert done == output
    made, kept_whole = answer(SPOKEN, size, False)
    whole = json.loads(asyncio.run(made.whole()))
    assert shape(whole["output"]) == shape(output)
    assert whole["usage"] == found[-1]["response"]["usage"]
    assert whole["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    assert len(kept) == len(kept_whole) == 1


def test_an_answer_cut_short_says_so_at_the_item_too():
    found, _ = streamed("Once upon", 4, FinishReason.LENGTH)
    last = found[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["status"] == last["response"]["output"][0]["status"] == "incomplete"
    assert last["response"]["completed_at"] is None


def test_an_answer_without_text_has_one_empty_message():
    found, _ = streamed("", 1)
    (item,) = found[-1]["response"]["output"]
    assert item["content"] == [
        {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    ]


def test_a_failure_is_an_error_event_and_then_a_failed_answer():
    made, kept = answer("Once upon", 4, True)
    made.begin()

    async def some():
        async for choice, delta in made.generation.events():
            made.delta(choice, delta)
            return

    asyncio.run(some())
    frames = made.failure(ApiError.of("deadline_exceeded", "too late"), "r").decode()
    types = [line.removeprefix("event: ") for line in frames.split("\n") if "event: " in line]
    assert types[-2:] == ["error", "response.failed"] or types[0] == "error"
    last = json.loads(frames.strip().split("data: ")[-1])
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"] == {"code": "deadline_exceeded", "message": "too late"}
    assert kept[0]["status"] == "failed"


def test_every_answer_has_every_member_of_the_open_schema(http: httpx2.Client):
    made = http.post(PATH, json={"input": "hi", "max_output_tokens": 1}).json()
    wanted = {
        *("id", "object", "created_at", "completed_at", "status", "incomplete_details", "model"),
        *("previous_response_id", "instructions", "output", "error", "tools", "tool_choice"),
        *("truncation", "parallel_tool_calls", "text", "top_p", "presence_penalty"),
        *("frequency_penalty", "top_logprobs", "temperature", "reasoning", "usage"),
        *("max_output_tokens", "max_tool_calls", "store", "background", "service_tier"),
        *("metadata", "safety_identifier", "prompt_cache_key"),
    }
    assert wanted <= set(made)
    assert made["usage"]["input_tokens_details"] == {"cached_tokens": 0, "cache_write_tokens": 0}
