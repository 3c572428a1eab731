"""The default model behind Anthropic's official client."""

import json
from collections.abc import Iterator

import anthropic
import pytest

from inferplane.config import DEFAULT_MODEL

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""What the model was tuned with; others lead so small a one astray."""
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY = {"temperature": 0}
"""The client names no sampling fields any more; other clients of the dialect do."""
ASKED = {
    "model": DEFAULT_MODEL,
    "messages": QUESTION,
    "max_tokens": 32,
    "extra_body": GREEDY,
}
WEATHER = {
    "name": "weather",
    "description": "The weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"enum": ["Bern", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key="none", timeout=300.0, max_retries=0) as made:
        yield made


def test_the_capital_of_france_is_paris(client) -> None:
    answer = client.messages.create(**ASKED, system=SYSTEM)
    assert answer.type == "message" and answer.role == "assistant"
    assert "Paris" in answer.content[0].text
    assert answer.stop_reason in ("end_turn", "max_tokens")
    assert answer.usage.output_tokens > 0
    assert answer._request_id


def test_a_stream_joins_to_the_same_message(client) -> None:
    whole = client.messages.create(**ASKED)
    with client.messages.stream(**ASKED) as stream:
        text = "".join(stream.text_stream)
        joined = stream.get_final_message()
    assert text == joined.content[0].text == whole.content[0].text
    assert joined.stop_reason == whole.stop_reason
    assert joined.usage.output_tokens == whole.usage.output_tokens
    names = [event.type for event in client.messages.create(**ASKED, stream=True)]
    assert names[0] == "message_start" and names[-2:] == ["message_delta", "message_stop"]


def test_counted_tokens_are_those_of_the_request(client) -> None:
    usage = client.messages.create(**ASKED).usage
    counted = client.messages.count_tokens(model=DEFAULT_MODEL, messages=QUESTION)
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens
    assert usage.cache_read_input_tokens >= 0


def test_a_stop_sequence_cuts_the_text_and_is_named(client) -> None:
    answer = client.messages.create(**ASKED, stop_sequences=["Paris"])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "Paris")
    assert "Paris" not in answer.content[0].text


def test_an_answer_can_be_begun_by_the_caller(client) -> None:
    begun = [*QUESTION, {"role": "assistant", "content": "The capital of France is"}]
    answer = client.messages.create(**ASKED | {"messages": begun, "max_tokens": 3})
    assert "Paris" in answer.content[0].text


@pytest.mark.parametrize("streamed", [False, True])
def test_a_forced_tool_is_called_and_its_result_taken(client, streamed) -> None:
    asked = ASKED | {
        "messages": [{"role": "user", "content": "How is the weather in Rome?"}],
        "tools": [WEATHER],
        "tool_choice": {"type": "tool", "name": "weather"},
    }
    if streamed:
        with client.messages.stream(**asked) as stream:
            answer = stream.get_final_message()
    else:
        answer = client.messages.create(**asked)
    assert answer.stop_reason == "tool_use"
    (call,) = answer.content
    assert call.name == "weather" and call.input["city"] in ("Bern", "Rome")
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
    messages = [
        *asked["messages"],
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": [result]},
    ]
    after = client.messages.create(**ASKED | {"messages": messages, "tools": [WEATHER]})
    assert after.content


def test_an_answer_matches_the_schema_that_is_asked(client) -> None:
    form = {"type": "json_schema", "schema": WEATHER["input_schema"]}
    answer = client.messages.create(**ASKED, output_config={"format": form})
    assert json.loads(answer.content[0].text)["city"] in ("Bern", "Rome")


def test_errors_arrive_as_the_clients_own_exceptions(client) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(**ASKED | {"extra_body": {"temperature": 9}})
    assert caught.value.body["error"]["param"] == "temperature"
    assert caught.value.request_id == caught.value.body["request_id"]
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(**ASKED | {"model": "claude"})
    wrong = ASKED | {"extra_body": {"top_p": 7}}
    with pytest.raises(anthropic.BadRequestError), client.messages.stream(**wrong):
        pass
    source = {"type": "base64", "media_type": "image/png", "data": "aGk="}
    pictured = [{"role": "user", "content": [{"type": "image", "source": source}]}]
    with pytest.raises(anthropic.BadRequestError, match="not supported"):
        client.messages.create(**ASKED | {"messages": pictured})
