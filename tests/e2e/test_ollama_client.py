"""The default model behind Ollama's official client."""

import json
from collections.abc import Iterator

import ollama
import pytest

from inferplane.config import DEFAULT_MODEL

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""What the model was tuned with; others lead so small a one astray."""
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY = {"temperature": 0, "num_predict": 32}
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Bern", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}


def weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: Its name.
    """
    return f"rain in {city}"


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[ollama.Client]:
    made = ollama.Client(host=url, timeout=300.0)
    yield made
    made._client.close()


def test_the_capital_of_france_is_paris_streamed_or_not(client) -> None:
    asked = {"model": DEFAULT_MODEL, "messages": QUESTION, "options": GREEDY}
    whole = client.chat(**asked)
    assert "Paris" in whole.message.content and whole.done
    assert whole.eval_count > 0 and whole.prompt_eval_count > 0 and whole.eval_duration > 0
    *pieces, last = client.chat(**asked, stream=True)
    assert "".join(piece.message.content for piece in pieces) == whole.message.content
    assert last.done and last.done_reason == whole.done_reason


def test_generate_answers_a_question_and_continues_a_raw_prompt(client) -> None:
    asked = {"model": DEFAULT_MODEL, "options": GREEDY}
    answer = client.generate(**asked, prompt=QUESTION[0]["content"], system=SYSTEM)
    assert "Paris" in answer.response
    raw = {"prompt": "The capital of France is", "raw": True}
    whole = client.generate(**asked, **raw).response
    assert whole == "".join(p.response for p in client.generate(**asked, **raw, stream=True))
    assert "Paris" in whole


def test_an_answer_matches_the_schema_that_is_asked(client) -> None:
    made = client.chat(DEFAULT_MODEL, QUESTION, format=CITY, options={"temperature": 0})
    assert json.loads(made.message.content)["city"] in ("Bern", "Rome")


def test_tools_are_offered_and_their_results_taken(client) -> None:
    call = {"function": {"name": "weather", "arguments": {"city": "Rome"}}}
    messages = [
        {"role": "user", "content": "How is the weather in Rome?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_name": "weather", "content": weather("Rome")},
    ]
    made = client.chat(DEFAULT_MODEL, messages, tools=[weather], options=GREEDY)
    assert made.message.content or made.message.tool_calls


def test_the_model_is_listed_shown_and_running(client) -> None:
    (listed,) = client.list().models
    assert listed.model == f"{DEFAULT_MODEL}:latest"
    assert listed.details.parameter_size == "134.5M" and listed.details.format == "gguf"
    shown = client.show(listed.model)
    assert "completion" in shown.capabilities
    assert shown.modelinfo["llama.block_count"] == 30
    (running,) = client.ps().models
    assert running.model == listed.model and running.context_length > 0


def test_embeddings_have_length_one(client) -> None:
    made = client.embed(DEFAULT_MODEL, ["The sky is blue.", "Le ciel est bleu."])
    assert len(made.embeddings) == 2 and made.prompt_eval_count > 0
    for vector in made.embeddings:
        assert sum(x * x for x in vector) == pytest.approx(1, abs=1e-3)


def test_errors_arrive_as_the_clients_own_exceptions(client) -> None:
    with pytest.raises(ollama.ResponseError, match="no model") as caught:
        client.chat("llama9", QUESTION)
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="temperature"):
        list(client.chat(DEFAULT_MODEL, QUESTION, options={"temperature": 9}, stream=True))
    with pytest.raises(ollama.ResponseError, match="neither fetched nor changed"):
        client.pull("llama9")
