"""A model behind a URL: a client of the OpenAI API, for any server that speaks it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx2
import jiter

from inferplane.cli.text_model import Message, Sampling
from inferplane.errors import EngineError, RequestError

__all__ = ["RemoteModel", "api_base", "is_url", "read_events"]

_CONNECT_S = 10.0
_SILENCE_S = 600.0
"""As the official client: a long prompt may be silent for long."""


def is_url(text: str) -> bool:
    """Whether a model argument means a server."""
    return text.startswith(("http://", "https://"))


def api_base(url: str) -> str:
    """The URL with /v1 at its end, given or not."""
    bare = url.rstrip("/")
    return bare if bare.endswith("/v1") else f"{bare}/v1"


class RemoteModel:
    """One served model. Open it with `connect`."""

    def __init__(self, http: httpx2.AsyncClient, name: str) -> None:
        self.http = http
        self.name = name

    @classmethod
    async def connect(cls, url: str, api_key: str = "", model: str = "") -> RemoteModel:
        """Reach the server; without `model` its first one is taken. Raises EngineError."""
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        timeout = httpx2.Timeout(_SILENCE_S, connect=_CONNECT_S)
        http = httpx2.AsyncClient(
            base_url=api_base(url),
            headers=headers,
            timeout=timeout,
            limits=httpx2.Limits(max_connections=None),  # a load generator may open hundreds
        )
        try:
            answer = await http.get("/models")
            if answer.status_code != httpx2.codes.OK:
                raise _refusal(answer.status_code, answer.content)
            listed = jiter.from_json(answer.content)["data"]
            return cls(http, model or listed[0]["id"])
        except httpx2.HTTPError as error:
            await http.aclose()
            raise EngineError(
                "engine_dead", f"no server answers at {url}: {error}; start one: inferplane serve"
            ) from None
        except (ValueError, KeyError, IndexError, TypeError):
            await http.aclose()
            raise EngineError(
                "engine_dead", f"{api_base(url)}/models names no model: is it an OpenAI API?"
            ) from None
        except BaseException:
            await http.aclose()
            raise

    async def chat(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[str]:
        """See TextModel."""
        body = {"messages": list(messages), **sampling.given()}
        async for event in self._events("/chat/completions", body):
            for choice in event["choices"]:
                if text := choice["delta"].get("content"):
                    yield text

    async def complete(self, prompt: str, sampling: Sampling) -> AsyncIterator[str]:
        """See TextModel."""
        body = {"prompt": prompt, **sampling.given()}
        async for event in self._events("/completions", body):
            for choice in event["choices"]:
                if text := choice["text"]:
                    yield text

    async def close(self) -> None:
        """See TextModel."""
        await self.http.aclose()

    async def _events(self, route: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        asked = {"model": self.name, "stream": True, **body}
        try:
            async with self.http.stream("POST", route, json=asked) as answer:
                if answer.status_code != httpx2.codes.OK:
                    raise _refusal(answer.status_code, await answer.aread())
                async for event in read_events(answer.aiter_lines()):
                    yield event
        except httpx2.HTTPError as error:
            raise EngineError("engine_dead", f"the server went away: {error}") from None


async def read_events(lines: AsyncIterator[str]) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of an event stream, until [DONE], or until an end after a finish reason,
    which is how transformers closes. Raises EngineError for an error frame or a stream cut off.
    """
    finished = False
    async for line in lines:
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        event = jiter.from_json(data.encode())
        if "error" in event:
            error = event["error"]
            raise EngineError(str(error.get("code")), str(error.get("message")))
        finished |= any(choice.get("finish_reason") for choice in event.get("choices", ()))
        yield event
    if not finished:
        raise EngineError("engine_dead", "the server's stream ended before it was complete")


def _refusal(status: int, content: bytes) -> RequestError:
    try:
        error = jiter.from_json(content)["error"]
        hint = f"; {error['hint']}" if error.get("hint") else ""
        return RequestError(str(error.get("code")), f"{error['message']}{hint}", error.get("param"))
    except (ValueError, KeyError, TypeError):
        return RequestError("http", f"the server answered {status} without an error body")
