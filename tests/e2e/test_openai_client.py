"""The default model behind the official client: what a user does first."""

from collections.abc import Iterator

import pytest

from inferplane.config import DEFAULT_MODEL

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[object]:
    import openai

    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=300.0) as made:
        yield made


def test_the_capital_of_france_is_paris(client) -> None:
    answer = client.chat.completions.create(
        model=DEFAULT_MODEL, messages=QUESTION, temperature=0, max_tokens=32
    )
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.completion_tokens > 0


def test_streamed_it_is_paris_too_and_the_same_text(client) -> None:
    asked = {"model": DEFAULT_MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 32}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert "Paris" in text and text == whole
    assert chunks[-1].usage.completion_tokens > 0
    assert chunks[-2].choices[0].finish_reason in ("stop", "length")


def test_the_second_of_two_equal_requests_finds_its_prefix_cached(client) -> None:
    messages = [{"role": "user", "content": "Repeat after me: " + "one two three " * 40}]
    asked = {"model": DEFAULT_MODEL, "messages": messages, "max_tokens": 2, "temperature": 0}
    client.chat.completions.create(**asked)
    usage = client.chat.completions.create(**asked).usage
    assert usage.prompt_tokens_details.cached_tokens > usage.prompt_tokens // 2


def test_completions_and_models_work_through_the_client(client) -> None:
    assert [model.id for model in client.models.list().data] == [DEFAULT_MODEL]
    assert client.models.retrieve(DEFAULT_MODEL).id == DEFAULT_MODEL
    asked = {"model": DEFAULT_MODEL, "prompt": "Once upon a", "max_tokens": 4, "temperature": 0}
    made = client.completions.create(**asked, logprobs=2, echo=True)
    assert made.choices[0].text.startswith("Once upon a")
    assert len(made.choices[0].logprobs.tokens) == made.usage.total_tokens
    streamed = client.completions.create(**asked, stream=True)
    text = "".join(chunk.choices[0].text for chunk in streamed)
    assert made.choices[0].text == "Once upon a" + text


def test_errors_arrive_as_the_clients_own_exceptions(client) -> None:
    import openai

    with pytest.raises(openai.NotFoundError, match="no model"):
        client.chat.completions.create(model="gpt-4", messages=QUESTION)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=DEFAULT_MODEL, messages=QUESTION, temperature=9)
    assert caught.value.param == "temperature" and caught.value.code == "out_of_range"
