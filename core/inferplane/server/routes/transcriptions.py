"""POST /v1/audio/transcriptions and /v1/audio/translations."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from inferplane.interfaces import Array
from inferplane.server.answers.frames import Framing, frame
from inferplane.server.answers.transcripts import MEDIA_TYPES, told, usage_of
from inferplane.server.audio.draws import Draws
from inferplane.server.audio.hearing import Hearing
from inferplane.server.audio.transcript import Transcript, Wish
from inferplane.server.context import ServerContext, Serving
from inferplane.server.disconnect import unless_client_leaves
from inferplane.server.errors import ApiError
from inferplane.server.front_door import as_api_error
from inferplane.server.handling import Asked, answer_headers
from inferplane.server.prompts import encode
from inferplane.server.routing import ScopedRoute
from inferplane.server.schema.body import check_body
from inferplane.server.schema.fields import Structure
from inferplane.server.schema.form import read_form
from inferplane.server.schema.report import Report
from inferplane.server.schema.transcriptions import (
    TIMED,
    form_values,
    transcription_structure,
    translation_structure,
)

__all__ = ["routes"]

_FORM_ROOM = 1 << 20
"""Bytes of a form beside its file."""


def routes(context: ServerContext) -> list[ScopedRoute]:
    """Both routes, with their tables of fields."""

    def route(task: str, path: str, structure: Structure) -> ScopedRoute:
        async def listen(request: Request) -> Response:
            return await _listen(context, structure, task, request)

        return ScopedRoute(path, listen, methods=["POST"], scope="infer")

    return [
        route("transcribe", "/v1/audio/transcriptions", transcription_structure()),
        route("translate", "/v1/audio/translations", translation_structure()),
    ]


async def _listen(
    context: ServerContext, structure: Structure, task: str, request: Request
) -> Response:
    data, asked = await _ask(context, structure, request)

    async def work() -> Response:
        serving = await context.serving()
        serving.require("transcribe")
        hearing = serving.model.hearing
        assert hearing is not None, "who can transcribe hears"
        samples = await _samples(hearing, data)
        wish = await _wish(serving, hearing, asked, task)
        asked.report.raise_problems()
        draws = Draws(context, serving, asked, hearing)
        made = Transcript(draws, hearing, serving.model.tokenizer, wish, samples)
        asked.note(audio_s=round(made.seconds, 2))
        headers = answer_headers(context, asked)
        if asked.found.get("stream"):
            return _EventStream(context, made, headers)
        async with asyncio.timeout(context.limits.request_s):
            async for _ in made.pieces():
                pass
        format = asked.found.get("response_format", "json")
        headers["openai-processing-ms"] = str(round((time.monotonic() - asked.began) * 1000))
        return Response(told(made, format), media_type=MEDIA_TYPES[format], headers=headers)

    try:
        return await unless_client_leaves(request.receive, work())
    except TimeoutError:
        raise ApiError.of("deadline_exceeded", "the request took longer than it may") from None


async def _ask(
    context: ServerContext, structure: Structure, request: Request
) -> tuple[bytes, Asked]:
    """The recording, and the form's fields checked against their table."""
    limits = context.limits
    hint = "send multipart/form-data with file and model"
    form = await read_form(request, limits.audio_bytes + _FORM_ROOM, hint)
    try:
        request.scope["state"]["began"] = time.monotonic()
        strict = context.settings.strict or request.headers.get("x-inferplane-strict") == "1"
        found, report = check_body(structure, form_values(form), strict=strict)
        file = form.get("file")
        data = await file.read(limits.audio_bytes + 1) if isinstance(file, UploadFile) else b""
    finally:
        await form.close()
    if len(data) > limits.audio_bytes:
        said = f"the file is larger than {limits.audio_bytes} bytes"
        raise ApiError.of("body_too_large", said, "file", "send it as several files")
    if not isinstance(file, UploadFile):
        report.wrong("missing_field", "file", "file is missing")
    _check(found, report)
    report.raise_problems()
    return data, Asked(request, found, report, context.card.resolve(found.get("model")))


def _check(found: dict[str, Any], report: Report) -> None:
    format = found.get("response_format", "json")
    granularities = found.get("timestamp_granularities", [])
    if "word" in granularities:
        report.wrong(
            "unsupported_feature",
            "timestamp_granularities",
            "timestamp_granularities: words have no timestamps here",
            "ask for segment",
        )
    elif granularities and format != "verbose_json":
        said = "timestamp_granularities needs response_format verbose_json"
        report.wrong("conflicting_fields", "timestamp_granularities", said)
    if found.get("stream") and format in TIMED:
        said = f"response_format {format} is not streamed"
        report.wrong("conflicting_fields", "stream", said, "ask for json or text")


async def _samples(hearing: Hearing, data: bytes) -> Array:
    read = await asyncio.to_thread(hearing.processor.read, data)
    if read.fault:
        raise ApiError.of(
            "media_invalid", f"file: the recording cannot be used: {read.fault}", "file"
        )
    samples: Array = read.samples
    return samples


async def _wish(serving: Serving, hearing: Hearing, asked: Asked, task: str) -> Wish:
    found, report, tokens = asked.found, asked.report, hearing.tokens
    language = found.get("language")
    known = tokens.languages or {"en": tokens.start}
    if language is not None and language.lower() not in known:
        report.wrong(
            "unknown_value",
            "language",
            f"language {language!r} is not one of {', '.join(sorted(known))}",
        )
    if task == "translate" and not tokens.tasks:
        raise ApiError.of(
            "route_unsupported_by_model",
            "the served model knows English alone: nothing to translate",
        )
    return Wish(
        task,
        None if language is None else language.lower(),
        await _context(serving, hearing, found.get("prompt", "")),
        found.get("response_format") in TIMED,
    )


async def _context(serving: Serving, hearing: Hearing, text: str) -> tuple[int, ...]:
    """The end of a text that comes before, as half of the model's room holds it."""
    previous = hearing.tokens.previous
    if not text.strip() or previous is None:
        return ()
    ids = await encode(serving.model, " " + text.strip(), False)
    plain = [id for id in ids if id < hearing.tokens.end]
    return (previous, *plain[-(hearing.speech.most_text // 2 - 1) :])


class _EventStream(Response):
    """`transcript.text.delta` as text comes, `transcript.text.done` at the end."""

    def __init__(self, context: ServerContext, made: Transcript, headers: dict[str, str]) -> None:
        super().__init__(headers={**headers, "cache-control": "no-cache"})
        self.context = context
        self.made = made

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        await unless_client_leaves(receive, self._send_all(scope, send))

    async def _send_all(self, scope: Scope, send: Send) -> None:
        headers = [h for h in self.raw_headers if h[0] != b"content-length"]
        headers.append((b"content-type", Framing.media_type))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            async with asyncio.timeout(self.context.limits.request_s):
                async for data in self._frames():
                    await send({"type": "http.response.body", "body": data, "more_body": True})
            last = b""
        except Exception as error:
            last = self._failure(scope["state"], error)
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _frames(self) -> AsyncIterator[bytes]:
        begun = False
        async for piece in self.made.pieces():
            shown = piece if begun else piece.lstrip()
            if shown:
                begun = True
                yield frame({"type": "transcript.text.delta", "delta": shown})
        text = self.made.text.lstrip()
        yield frame({"type": "transcript.text.done", "text": text, "usage": usage_of(self.made)})

    def _failure(self, state: dict[str, Any], error: Exception) -> bytes:
        known = as_api_error(error)
        if isinstance(error, TimeoutError):
            known = ApiError.of("deadline_exceeded", "the request took longer than it may")
        if known is None:
            self.context.note_failure(state["request_id"], error)
            known = ApiError.of("internal_error", "the server failed; its log has the reason")
        state["facts"]["code"] = known.code
        return Framing().failure(known, state["request_id"])
