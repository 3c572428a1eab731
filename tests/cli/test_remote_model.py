"""Laws of the client: what it sends, what it makes of streams, errors and odd servers."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from inferplane.cli.remote_model import RemoteModel, api_base, is_url, read_events
from inferplane.cli.text_model import Sampling
from inferplane.errors import EngineError, RequestError


class Server:
    """Plays a recorded stream and keeps what it was sent."""

    def __init__(self, stream: str, status: int = 200) -> None:
        self.stream, self.status = stream, status
        self.bodies: list[dict[str, object]] = []
        routes = [
            Route(f"/v1/{name}", self.play, methods=["POST"])
            for name in ("chat/completions", "completions")
        ]
        self.app = Starlette(routes=routes)

    async def play(self, request: Request) -> Response:
        self.bodies.append(json.loads(await request.body()))
        return Response(self.stream, self.status, media_type="text/event-stream")

    def model(self) -> RemoteModel:
        transport = httpx2.ASGITransport(app=self.app)
        http = httpx2.AsyncClient(transport=transport, base_url="http://server/v1")
        return RemoteModel(http, "served")


def frames(*events: object) -> str:
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"


def said(iterator: AsyncIterator[str]) -> list[str]:
    async def gather() -> list[str]:
        return [piece async for piece in iterator]

    return asyncio.run(gather())


QUESTION = [{"role": "user", "content": "hi"}]


def test_a_chat_is_joined_from_its_deltas() -> None:
    server = Server(
        frames(
            {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
            {"choices": [{"delta": {"content": "Bon"}}]},
            {"choices": [{"delta": {"content": "jour"}}]},
            {"choices": [{"delta": {}, "finish_reason": "stop"}]},
            {"choices": [], "usage": {"completion_tokens": 2}},
        )
    )
    assert said(server.model().chat(QUESTION, Sampling())) == ["Bon", "jour"]


def test_only_given_sampling_fields_are_sent() -> None:
    server = Server(frames())
    said(server.model().chat(QUESTION, Sampling(temperature=0.0, stop=("x",))))
    assert server.bodies == [
        {
            "model": "served",
            "stream": True,
            "messages": QUESTION,
            "temperature": 0.0,
            "stop": ["x"],
        }
    ]


def test_a_completion_sends_the_prompt_as_it_is() -> None:
    server = Server(frames({"choices": [{"text": "upon"}]}, {"choices": [{"text": ""}]}))
    assert said(server.model().complete("Once", Sampling(max_tokens=5))) == ["upon"]
    assert (server.bodies[0]["prompt"], server.bodies[0]["max_tokens"]) == ("Once", 5)


def test_comments_and_blank_lines_of_a_stream_are_skipped() -> None:
    server = Server(": ping\n\n" + frames({"choices": [{"text": "a"}]}))
    assert said(server.model().complete("x", Sampling())) == ["a"]


def test_an_error_frame_is_an_error() -> None:
    server = Server(frames({"error": {"code": "engine_dead", "message": "it died"}}))
    with pytest.raises(EngineError, match="it died") as caught:
        said(server.model().complete("x", Sampling()))
    assert caught.value.code == "engine_dead"


def test_a_stream_without_its_end_mark_is_not_taken_for_complete() -> None:
    server = Server('data: {"choices": [{"text": "a"}]}\n\n')
    with pytest.raises(EngineError, match="before it was complete"):
        said(server.model().complete("x", Sampling()))


def test_a_refusal_shows_message_hint_and_field() -> None:
    body = {"error": {"code": "out_of_range", "message": "too hot", "hint": "at most 2"}}
    server = Server(json.dumps(body | {"x": 1}), status=400)
    with pytest.raises(RequestError, match="too hot; at most 2"):
        said(server.model().complete("x", Sampling()))


def test_a_refusal_without_an_error_body_tells_its_status() -> None:
    server = Server("<html>bad gateway</html>", status=502)
    with pytest.raises(RequestError, match="502"):
        said(server.model().complete("x", Sampling()))


def test_no_server_says_how_to_start_one() -> None:
    async def connect() -> None:
        await RemoteModel.connect("http://127.0.0.1:9")

    with pytest.raises(EngineError, match="inferplane serve"):
        asyncio.run(connect())


def events(*lines: str) -> list[object]:
    async def arriving() -> AsyncIterator[str]:
        for line in lines:
            yield line

    async def gather() -> list[object]:
        return [event async for event in read_events(arriving())]

    return asyncio.run(gather())


def test_events_end_at_done() -> None:
    assert events("data: {}", "data: [DONE]", "data: never") == [{}]


def test_events_may_end_after_a_finish_reason_and_not_before() -> None:
    last = {"choices": [{"finish_reason": "stop"}]}
    assert events(f"data: {json.dumps(last)}") == [last]
    with pytest.raises(EngineError, match="before it was complete"):
        events('data: {"choices": [{"finish_reason": null}]}')


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_the_api_base_ends_with_v1_once(url: str) -> None:
    assert api_base(url) == "http://h:1/v1"


def test_a_url_is_told_from_a_model_name() -> None:
    assert is_url("https://host/v1")
    assert not is_url("org/model")
