"""Tools, forms, choices and vectors through the official client, on the default model."""

import json
from collections.abc import Iterator
from typing import Literal

import openai
import pytest
from pydantic import BaseModel

from inferplane.config import DEFAULT_MODEL

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ASKED = {"model": DEFAULT_MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 24}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Bern", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Answer(BaseModel):
    """What is asked for."""

    capital: Literal["Paris", "Rome"]


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=300.0) as made:
        yield made


@pytest.mark.parametrize("streamed", [False, True])
def test_a_forced_tool_is_called_and_its_result_taken(client, streamed) -> None:
    messages = [{"role": "user", "content": "How is the weather in Rome?"}]
    choice = {"type": "function", "function": {"name": "weather"}}
    asked = ASKED | {"messages": messages, "tools": [WEATHER], "tool_choice": choice}
    if streamed:
        with client.chat.completions.stream(**asked) as stream:
            made = stream.get_final_completion().choices[0]
    else:
        made = client.chat.completions.create(**asked).choices[0]
    assert made.finish_reason in ("stop", "tool_calls")
    (call,) = made.message.tool_calls
    assert json.loads(call.function.arguments)["city"] in ("Bern", "Rome")
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    said = {"role": "assistant", "tool_calls": [call.to_dict()]}
    after = client.chat.completions.create(**ASKED | {"messages": [*messages, said, result]})
    assert after.choices[0].message.content


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_is_parsed_into_the_asked_form(client, streamed) -> None:
    asked = ASKED | {"response_format": Answer}
    if streamed:
        with client.chat.completions.stream(**asked) as stream:
            made = stream.get_final_completion()
    else:
        made = client.chat.completions.parse(**asked)
    assert isinstance(made.choices[0].message.parsed, Answer)


def test_choices_have_log_probabilities_streamed_or_not(client) -> None:
    asked = ASKED | {"n": 2, "logprobs": True, "top_logprobs": 2, "max_tokens": 4}
    whole = client.chat.completions.create(**asked)
    assert [choice.index for choice in whole.choices] == [0, 1]
    tokens = {0: [], 1: []}
    for chunk in client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            tokens[choice.index] += choice.logprobs.content if choice.logprobs else []
    for choice in whole.choices:
        entries = choice.logprobs.content
        assert [one.token for one in tokens[choice.index]] == [one.token for one in entries]
        assert all(len(one.top_logprobs) == 2 for one in entries)
        assert all(one.token == one.top_logprobs[0].token for one in entries)


def test_two_prompts_are_completed_streamed_or_not(client) -> None:
    prompts = ["The capital of France is", "The capital of Italy is"]
    asked = {"model": DEFAULT_MODEL, "prompt": prompts, "temperature": 0, "max_tokens": 3}
    whole = [choice.text for choice in client.completions.create(**asked).choices]
    assert "Paris" in whole[0] and "Rome" in whole[1]
    texts = ["", ""]
    for chunk in client.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == whole


def test_vectors_are_the_same_as_numbers_and_packed(client) -> None:
    asked = {"model": DEFAULT_MODEL, "input": ["The sky is blue.", "Le ciel est bleu."]}
    packed = client.embeddings.create(**asked)  # the client asks for base64 by itself
    plain = client.embeddings.create(**asked, encoding_format="float")
    assert [one.index for one in plain.data] == [0, 1] and plain.usage.prompt_tokens > 4
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert sum(x * x for x in one.embedding) == pytest.approx(1, abs=1e-3)
