"""Pictures through the whole server by the official clients: a tiny random model that sees."""

import base64
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anthropic
import ollama
import openai
import pytest

from inferplane.testing.tiny_chats import write_seeing_chat

image = pytest.importorskip("PIL.Image")
pytest.importorskip("transformers")
MODEL = "smolvlm"
ASK = "Describe this."


def picture(colour: str, kind: str = "PNG", size: tuple[int, int] = (60, 40)) -> str:
    data = io.BytesIO()
    image.new("RGB", size, colour).save(data, kind)
    return base64.b64encode(data.getvalue()).decode()


RED, BLUE = picture("red"), picture("blue", "JPEG")


@pytest.fixture(scope="module")
def seeing_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("seeing") / MODEL
    write_seeing_chat(folder, MODEL)
    command = [sys.executable, "-m", "inferplane", "serve", f"{folder}", "--port", "0"]
    server = subprocess.Popen(
        [*command, "--device", "cpu", "--max-model-len", "512", "--load-wait", "300"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout is not None
    try:
        line = server.stdout.readline()
        yield next(word.rstrip(",") for word in line.split() if word.startswith("http"))
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


@pytest.fixture(scope="module")
def client(seeing_url: str) -> Iterator[openai.OpenAI]:
    url = f"{seeing_url}/v1"
    with openai.OpenAI(base_url=url, api_key="none", timeout=400.0, max_retries=0) as made:
        yield made


def text(said: str) -> dict:
    return {"type": "text", "text": said}


def shown(data: str) -> dict:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def answer(client, *parts, **more):
    made = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": list(parts)}],
        temperature=0,
        max_tokens=8,
        extra_body={"ignore_eos": True},
        **more,
    )
    return made.choices[0].message.content, made.usage.prompt_tokens


def test_the_answer_depends_on_the_picture_and_on_it_alone(client) -> None:
    red, blue = answer(client, text(ASK), shown(RED)), answer(client, text(ASK), shown(BLUE))
    assert red[0] != blue[0]
    assert red[1] == blue[1] > answer(client, text(ASK))[1]
    assert answer(client, text(ASK), shown(RED)) == red


def test_two_pictures_count_where_they_stand(client) -> None:
    one = answer(client, shown(RED), text(ASK), shown(BLUE))
    other = answer(client, shown(BLUE), text(ASK), shown(RED))
    assert one[0] != other[0] and one[1] == other[1]


def test_a_stream_says_the_same(client) -> None:
    whole, _ = answer(client, text(ASK), shown(RED))
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": [text(ASK), shown(RED)]}],
        temperature=0,
        max_tokens=8,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == whole


def test_the_picture_token_in_a_text_is_text(client) -> None:
    plain, written = answer(client, text("a")), answer(client, text("a<image>"))
    assert written[1] == plain[1] + len("<image>")
    with_picture = answer(client, text("a<image>"), shown(RED))
    assert with_picture[1] == answer(client, text("a"), shown(RED))[1] + len("<image>")


def test_responses_and_messages_see_the_same_picture(client, seeing_url) -> None:
    _, tokens = answer(client, text(ASK), shown(RED))
    parts = [
        {"type": "input_text", "text": ASK},
        {"type": "input_image", "image_url": f"data:image/png;base64,{RED}", "detail": "auto"},
    ]
    asked = {"model": MODEL, "input": [{"role": "user", "content": parts}], "temperature": 0}
    made = client.responses.create(**asked, max_output_tokens=8)
    assert made.usage.input_tokens == tokens
    with client.responses.create(**asked, max_output_tokens=8, stream=True) as events:
        assert [event for event in events][-1].response.usage.input_tokens == tokens
    again = client.responses.create(
        model=MODEL, previous_response_id=made.id, input=ASK, max_output_tokens=4
    )
    assert again.usage.input_tokens > tokens
    source = {"type": "base64", "media_type": "image/png", "data": RED}
    blocks = [{"type": "text", "text": ASK}, {"type": "image", "source": source}]
    talk = {"model": MODEL, "messages": [{"role": "user", "content": blocks}]}
    with anthropic.Anthropic(base_url=seeing_url, api_key="none", max_retries=0) as other:
        assert other.messages.count_tokens(**talk).input_tokens == tokens
        told = other.messages.create(**talk, max_tokens=8, extra_body={"temperature": 0})
        with other.messages.stream(**talk, max_tokens=8, extra_body={"temperature": 0}) as stream:
            assert stream.get_final_text() == told.content[0].text


def test_ollama_says_that_it_sees_and_does(seeing_url) -> None:
    client = ollama.Client(host=seeing_url, timeout=400.0)
    try:
        assert "vision" in client.show(MODEL).capabilities
        options = {"temperature": 0, "num_predict": 8}
        said = [
            client.chat(
                MODEL, [{"role": "user", "content": ASK, "images": [data]}], options=options
            ).message.content
            for data in (RED, BLUE)
        ]
        made = client.generate(MODEL, ASK, images=[RED], options=options)
    finally:
        client._client.close()
    assert said[0] != said[1] and made.response == said[0]


@pytest.mark.parametrize(
    ("parts", "code", "param"),
    [
        ([shown("AAAA")], "media_invalid", "messages.0.content.0"),
        ([text("a"), shown("%")], "media_invalid", "messages.0.content.1"),
        ([shown(RED)] * 9, "too_many_items", "messages.0.content.8"),
        ([shown(picture("red", size=(900, 3)))], "media_invalid", "messages.0.content.0"),
        ([*[shown(RED)] * 8, text("a" * 200)], "context_length_exceeded", "messages"),
        (
            [{"type": "image_url", "image_url": {"url": "https://169.254.169.254/"}}],
            "media_fetch_disabled",
            "messages.0.content.0",
        ),
    ],
)
def test_what_cannot_be_used_is_a_400_that_names_the_part(client, parts, code, param) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        answer(client, *parts)
    assert (refused.value.code, refused.value.param) == (code, param)


def test_the_model_list_and_the_metrics_tell_of_pictures(client, seeing_url) -> None:
    card = client.models.retrieve(MODEL)
    assert card.inferplane["vision"] is True
    told = client.with_options(base_url=seeing_url).get("/metrics", cast_to=str)
    assert 'inferplane_media_items_total{engine="0",model="smolvlm",result="read"}' in told
    assert 'result="refused"' in told and "inferplane_media_seconds_sum" in told
