"""The Responses API through the official client, on the default model."""

from collections.abc import Iterator

import pytest

from inferplane.config import DEFAULT_MODEL

ASKED = {
    "model": DEFAULT_MODEL,
    "input": "What is the capital of France?",
    "temperature": 0,
    "max_output_tokens": 24,
}
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[object]:
    import openai

    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=300.0) as made:
        yield made


def test_the_answer_is_the_same_streamed_and_not_and_stored(client) -> None:
    whole = client.responses.create(**ASKED)
    assert "Paris" in whole.output_text and whole.status == "completed"
    events = list(client.responses.create(**ASKED, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [e.delta for e in events if e.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text
    last = events[-1]
    assert last.type == "response.completed"
    assert client.responses.retrieve(last.response.id) == last.response
    client.responses.delete(last.response.id)


def test_the_clients_own_stream_helper_collects_the_final_answer(client) -> None:
    with client.responses.stream(**ASKED) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    assert "Paris" in final.output_text
    assert final.usage.total_tokens == final.usage.input_tokens + final.usage.output_tokens


def test_a_conversation_goes_on_and_its_items_are_listed(client) -> None:
    first = client.responses.create(**ASKED)
    follows = {**ASKED, "input": "And of Italy?", "previous_response_id": first.id}
    second = client.responses.create(**follows)
    assert "Rome" in second.output_text
    listed = list(client.responses.input_items.list(second.id, order="asc"))
    assert [item.role for item in listed] == ["user", "assistant", "user"]
    assert listed[1].id == first.output[0].id


def test_a_called_tools_result_goes_back_into_the_conversation(client) -> None:
    asked = {
        "model": DEFAULT_MODEL,
        "input": "How is the weather in Paris?",
        "tools": [WEATHER],
        "parallel_tool_calls": False,
        "tool_choice": "required",
        "temperature": 0,
    }
    made = client.responses.create(**asked)
    (call,) = made.output
    assert call.type == "function_call" and call.name == "weather"
    assert call.arguments.replace(" ", "") == '{"city":"Paris"}'
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    after = client.responses.create(
        model=DEFAULT_MODEL,
        previous_response_id=made.id,
        input=[result],
        temperature=0,
        max_output_tokens=8,
    )
    assert after.output[0].type == "message"


def test_a_schema_binds_the_text(client) -> None:
    form = {
        "type": "json_schema",
        "name": "answer",
        "schema": {
            "type": "object",
            "properties": {"capital": {"enum": ["Paris", "Rome"]}},
            "required": ["capital"],
            "additionalProperties": False,
        },
    }
    made = client.responses.create(**ASKED | {"text": {"format": form}})
    assert "".join(made.output_text.split()) in ('{"capital":"Paris"}', '{"capital":"Rome"}')


def test_a_background_answer_can_be_polled_and_cancelled(client) -> None:
    made = client.responses.create(**ASKED, background=True)
    assert made.status == "queued"
    while made.status in ("queued", "in_progress"):
        made = client.responses.retrieve(made.id)
    assert made.status == "completed" and "Paris" in made.output_text
    long = {**ASKED, "input": "Tell a long story.", "max_output_tokens": 2000}
    other = client.responses.create(**long, background=True)
    assert client.responses.cancel(other.id).status == "cancelled"
    assert client.responses.retrieve(other.id).status == "cancelled"


def test_errors_name_the_field(client) -> None:
    import openai

    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**ASKED | {"input": [{"role": "user", "content": 5}]})
    assert caught.value.param == "input.0.content" and caught.value.code == "invalid_type"
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_none")


def test_the_tokens_of_an_answers_prompt_can_be_counted_before(client) -> None:
    told = {"model": DEFAULT_MODEL, "input": ASKED["input"], "tools": [WEATHER]}
    counted = client.responses.input_tokens.count(**told)
    made = client.responses.create(**ASKED | told | {"max_output_tokens": 1})
    assert counted.input_tokens == made.usage.input_tokens


def test_the_events_of_a_background_answer_can_be_followed_from_anywhere(client) -> None:
    events = list(client.responses.create(**ASKED, background=True, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    id, after = events[0].response.id, len(events) // 2
    again = list(client.responses.retrieve(id, stream=True, starting_after=after))
    assert again == events[after + 1 :]
    assert "Paris" in again[-1].response.output_text
