"""What the operator sees while the server starts: one screen, progress, then how to call it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import metadata
from typing import TextIO

from inferplane.config import ServeSettings
from inferplane.engine.messages import EngineInfo
from inferplane.launch import LaunchPlan
from inferplane.server.context import ServerContext
from inferplane.server.lifecycle import PHASES, phase_of
from inferplane.server.served_model import API_DEFAULTS

__all__ = ["Banner"]

_GIB = 1 << 30
_BAR = 20
_LABEL = 16


class Banner:
    """Writes to a terminal, or plain lines elsewhere; nothing at all when `quiet`."""

    def __init__(
        self, settings: ServeSettings, *, stream: TextIO | None = None, quiet: bool = False
    ) -> None:
        self.settings = settings
        self.stream = stream or sys.stdout
        self.quiet = quiet
        self.live = not quiet and self.stream.isatty()
        self._told = ""
        self._planned = False

    def _say(self, text: str) -> None:
        if not self.quiet:
            print(text, file=self.stream, flush=True)

    def _row(self, label: str, text: str) -> None:
        self._say(f"  {label:{_LABEL}} {text}")

    def listening(self, url: str) -> None:
        """The socket is open."""
        version = metadata.version("inferplane")
        self._say(f"Inferplane {version}   listening on {url}, loading {self._source()}")

    def _source(self) -> str:
        return self.settings.model_source

    def planned(self, plan: LaunchPlan) -> None:
        """The device is chosen."""
        if self._planned:
            return
        self._planned = True
        self._clear()
        made_by = f"{plan.plugin} {plan.plugin_version}"
        self._row("device", f"{plan.device} ({made_by}): {plan.probe.reason}")
        others = [
            f"{report.name}: {report.error or (report.probe.reason if report.probe else '')}"
            for report in plan.devices
            if report.name != plan.device
        ]
        if others:
            self._row("why not others", "   ".join(others))
        for name, reason in plan.failed.items():
            self._row("plugin failed", f"{name}: {reason}")
        for change in plan.changes:
            self._row("changed", f"{change.key} {change.value}: {change.reason}")

    def progress(self, context: ServerContext) -> None:
        """How far start-up is; a line that changes, or one line for each phase."""
        status = context.engine.status
        phase = phase_of(status.phase)
        number = PHASES.index(phase) + 1 if phase in PHASES else len(PHASES)
        head = f"[{number}/{len(PHASES)}] {phase}"
        if self.live:
            self.stream.write(f"\r\x1b[K  {head:16} {_bar(status.done, status.total)}")
            eta_s = context.eta_s()
            if eta_s is not None:
                self.stream.write(f"   {eta_s:.0f} s left")
            self.stream.flush()
        elif head != self._told:
            self._say(f"  {head}")
        self._told = head

    def _clear(self) -> None:
        if self.live:
            self.stream.write("\r\x1b[K")

    def ready(self, context: ServerContext, url: str, seconds: float) -> None:
        """Requests are served."""
        self._clear()
        info = context.engine.info
        assert info is not None
        self._row("model", _model_line(self._source(), info))
        self._row("memory", _memory_line(info))
        model = context.loaded_model
        if model is not None and model.defaults:
            given = [f"{k} {v:g} (not {API_DEFAULTS[k]:g})" for k, v in model.defaults.items()]
            told = ", ".join(given)
            self._row("from the model", f"{told}; --generation-config none to drop")
        self._row("auth", _auth_line(self.settings))
        self._say(f"Ready in {seconds:.1f} s: {_phases(info.phase_seconds, seconds)}   {url}")
        self._examples(url, context.card.name)

    def _examples(self, url: str, name: str) -> None:
        body = '{"messages": [{"role": "user", "content": "Hello"}]}'
        header = "-H 'Content-Type: application/json'"
        self._say(f"  curl    curl {url}/v1/chat/completions {header} -d '{body}'")
        self._say(f'  python  OpenAI(base_url="{url}/v1", api_key="none")   model {name!r}')

    def failed(self, message: str) -> None:
        """It will not start, or cannot go on."""
        self._clear()
        if self.quiet:
            return
        print(f"error: {message}", file=sys.stderr, flush=True)

    def draining(self, running: int) -> None:
        """A signal came."""
        self._clear()
        self._say(f"Draining: {running} running; a second signal ends at once")


def _bar(done: int, total: int) -> str:
    if not total:
        return ""
    full = _BAR * done // total
    return f"{'#' * full}{'.' * (_BAR - full)}  {100 * done // total:3d} %"


def _model_line(source: str, info: EngineInfo) -> str:
    return f"{source}   {info.dtype}   context {info.max_model_len}"


def _memory_line(info: EngineInfo) -> str:
    whole = info.num_blocks * info.block_size // max(info.max_model_len, 1)
    return (
        f"weights {info.weight_bytes / _GIB:.2f} + KV {info.kv_bytes / _GIB:.2f} GiB   "
        f"{info.num_blocks * info.block_size} tokens, {whole} requests at full context"
    )


def _auth_line(settings: ServeSettings) -> str:
    if settings.api_keys:
        return f"{len(settings.api_keys)} keys"
    if settings.insecure_no_auth:
        return "NONE (--insecure-no-auth): whoever reaches the port may use it"
    return "none, loopback only"


def _phases(seconds: Mapping[str, float], whole: float) -> str:
    told = [f"{name.replace('_', '-')} {took:.1f}" for name, took in seconds.items()]
    other = whole - sum(seconds.values())
    return ", ".join([*told, f"other {max(other, 0.0):.1f}"]) + "."
