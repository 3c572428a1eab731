"""Lines of batch files: what may stand in them, and what becomes of each."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jiter

from inferplane.server.answers.frames import encode
from inferplane.server.auth import Caller
from inferplane.server.batches.inner_call import InnerAnswer, inner_call
from inferplane.server.routing import GatedRouter

__all__ = ["ENDPOINTS", "BatchLine", "LineError", "LineRunner", "failed_line", "read_lines"]

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
_CUSTOM_ID_CHARACTERS = 512
_MAX_ERRORS = 100
_BUSY = (429, 503)
_LONGEST_WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One request of a file."""

    custom_id: str
    url: str
    body: bytes


@dataclass(frozen=True, slots=True)
class LineError:
    """Why a file cannot be run."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None

    def object(self) -> dict[str, object]:
        """As the API tells it."""
        return {
            "code": self.code,
            "message": self.message,
            "param": self.param,
            "line": self.line,
        }


def read_lines(
    data: bytes, urls: Iterable[str], most: int
) -> tuple[list[BatchLine], list[LineError]]:
    """The requests of a JSONL file, and the first hundred reasons why it has none."""
    allowed = tuple(urls)
    found: dict[str, BatchLine] = {}
    errors: list[LineError] = []
    for number, raw in enumerate(data.split(b"\n"), 1):
        if not raw.strip():
            continue
        line = _read(raw, number, allowed)
        if isinstance(line, BatchLine) and line.custom_id in found:
            said = f"custom_id {line.custom_id[:64]!r} stands in the file twice"
            line = LineError("duplicate_custom_id", said, number, "custom_id")
        if isinstance(line, LineError):
            errors.append(line)
        else:
            found[line.custom_id] = line
        if len(errors) >= _MAX_ERRORS or len(found) > most:
            break
    if len(found) > most:
        errors.append(LineError("too_many_lines", f"at most {most} requests fit in a file"))
    elif not found and not errors:
        errors.append(LineError("empty_file", "the file holds no requests"))
    return list(found.values()), errors


def _read(raw: bytes, number: int, urls: tuple[str, ...]) -> BatchLine | LineError:
    try:
        line = jiter.from_json(raw, catch_duplicate_keys=True, allow_inf_nan=False)
    except ValueError:
        return LineError("invalid_json_line", "the line is not valid JSON", number)
    if not isinstance(line, dict):
        return LineError("invalid_json_line", "the line is not an object", number)
    id, url, body = line.get("custom_id"), line.get("url"), line.get("body")
    if not isinstance(id, str) or not 1 <= len(id) <= _CUSTOM_ID_CHARACTERS:
        return LineError("missing_required_parameter", "want a custom_id", number, "custom_id")
    if line.get("method") != "POST":
        return LineError("invalid_method", "method must be POST", number, "method")
    if url not in urls:
        return LineError("invalid_url", f"url must be {' or '.join(urls)}", number, "url")
    if not isinstance(body, dict):
        return LineError("missing_required_parameter", "want a body", number, "body")
    if body.get("stream") or body.get("background"):
        return LineError("unsupported_feature", "lines are answered whole", number, "body.stream")
    return BatchLine(id, url, encode(body))


class LineRunner:
    """Sends lines through the server's own handlers, so many at once for all batches together."""

    def __init__(
        self,
        gate: Callable[[], GatedRouter],
        at_once: int,
        on_failure: Callable[[str, BaseException], None],
    ) -> None:
        self._gate = gate
        self._room = asyncio.Semaphore(at_once)
        self._on_failure = on_failure

    async def run(self, line: BatchLine, caller: Caller) -> tuple[bool, bytes]:
        """(whether it succeeded, the line of the result). A busy server is asked again."""
        id = "batch_req_" + secrets.token_hex(12)
        async with self._room:
            answer = await self._answer(line, caller, id)
            while answer.status in _BUSY and answer.retry_after_s:
                await asyncio.sleep(min(answer.retry_after_s, _LONGEST_WAIT_S))
                answer = await self._answer(line, caller, id)
        made = b"".join(
            (
                b'{"id":"%s","custom_id":' % id.encode(),
                encode(line.custom_id),
                b',"response":{"status_code":%d,"request_id":"%s","body":'
                % (answer.status, id.encode()),
                answer.body,
                b'},"error":null}\n',
            )
        )
        return answer.status == 200, made

    async def _answer(self, line: BatchLine, caller: Caller, id: str) -> InnerAnswer:
        return await inner_call(self._gate(), line.url, line.body, caller, id, self._on_failure)


def failed_line(line: BatchLine, error: Mapping[str, Any]) -> bytes:
    """The result of a line that was never run."""
    id = "batch_req_" + secrets.token_hex(12)
    told = {"id": id, "custom_id": line.custom_id, "response": None, "error": error}
    return encode(told) + b"\n"
