"""Log lines: one a request, as text or JSON; never a prompt, an output, a key or a header."""

from __future__ import annotations

import logging
import sys
import time
from typing import Literal, TextIO

import msgspec

from inferplane.server.front_door import Ended

__all__ = ["configure_logging", "log_request"]

_QUIET = frozenset(("/livez", "/readyz", "/startupz", "/health", "/metrics"))


def log_request(logger: logging.Logger, request: Ended) -> None:
    """The line of one request; those of probes are at DEBUG."""
    level = logging.DEBUG if request.route in _QUIET else logging.INFO
    if not logger.isEnabledFor(level):
        return
    facts = {
        "request_id": request.request_id,
        "method": request.method,
        "route": request.route,
        "status": request.status,
        "ms": round(request.seconds * 1e3, 1),
    }
    if request.code:
        facts["code"] = request.code
    facts.update((k, v) for k, v in request.facts.items() if k != "code")
    logger.log(level, "request", extra={"facts": facts})


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts = getattr(record, "facts", {})
        told = " ".join(f"{name}={value}" for name, value in facts.items())
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock} {record.levelname.lower():5} {record.getMessage()} {told}".rstrip()
        return line + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, object] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            told["trace"] = self.formatException(record.exc_info)
        return msgspec.json.encode(told).decode()


def configure_logging(form: Literal["text", "json"], stream: TextIO | None = None) -> None:
    """Send this program's own log lines to `stream`; other libraries speak from WARNING on."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("inferplane").setLevel(logging.INFO)
