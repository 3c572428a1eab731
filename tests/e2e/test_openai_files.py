"""Files and batches through the official client, on the default model."""

import json
from collections.abc import Iterator

import openai
import pytest

from inferplane.config import DEFAULT_MODEL

CHAT = "/v1/chat/completions"
ENDED = ("completed", "failed", "cancelled", "expired")


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=300.0) as made:
        yield made


def line(id: str, **body: object) -> str:
    asked = {"model": DEFAULT_MODEL, "temperature": 0, "max_tokens": 12} | body
    return json.dumps({"custom_id": id, "method": "POST", "url": CHAT, "body": asked})


def question(country: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"What is the capital of {country}?"}]


def uploaded(client: openai.OpenAI, *lines: str) -> str:
    data = "\n".join(lines).encode()
    return client.files.create(file=("asked.jsonl", data), purpose="batch").id


def started(client: openai.OpenAI, file: str) -> openai.types.Batch:
    return client.batches.create(input_file_id=file, endpoint=CHAT, completion_window="24h")


def test_a_file_is_listed_read_and_deleted(client) -> None:
    text = line("a", messages=question("France"))
    id = uploaded(client, text)
    assert id in [file.id for file in client.files.list(purpose="batch")]
    found = client.files.retrieve(id)
    assert (found.filename, found.bytes, found.purpose) == ("asked.jsonl", len(text), "batch")
    assert client.files.content(id).read() == text.encode()
    assert client.files.delete(id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(id)


def test_a_batch_answers_as_single_requests_do(client) -> None:
    wanted = {"one": question("France"), "two": question("Italy")}
    asked = {"model": DEFAULT_MODEL, "temperature": 0, "max_tokens": 12}
    singly = {
        id: client.chat.completions.create(**asked, messages=messages).choices[0].message.content
        for id, messages in wanted.items()
    }
    lines = [line(id, messages=messages) for id, messages in wanted.items()]
    batch = started(client, uploaded(client, *lines, line("bad", messages=5)))
    assert batch.id in [one.id for one in client.batches.list(limit=5)]
    while batch.status not in ENDED:
        batch = client.batches.retrieve(batch.id)
    assert batch.status == "completed"
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (3, 2, 1)
    found = {}
    for text in client.files.content(batch.output_file_id).text.splitlines():
        one = json.loads(text)
        found[one["custom_id"]] = one["response"]["body"]["choices"][0]["message"]["content"]
    assert found == singly
    (wrong,) = client.files.content(batch.error_file_id).text.splitlines()
    assert json.loads(wrong)["custom_id"] == "bad"


def test_a_batch_can_be_cancelled(client) -> None:
    story = [{"role": "user", "content": "Tell a long story."}]
    lines = [line(f"{n}", messages=story, max_tokens=3000, ignore_eos=True) for n in range(3)]
    batch = started(client, uploaded(client, *lines))
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    while (batch := client.batches.retrieve(batch.id)).status not in ENDED:
        pass
    assert batch.status == "cancelled"
