"""The planner child: strangers' plugins are loaded and asked here, where they hurt nobody else.

Run by `run_planner` and `run_survey` alone, as `python -m inferplane.planner SOCKET_FD`. What
plugins print is captured: the answer has a socket of its own.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from inferplane import errors
from inferplane.child_process import die_with_parent, socket_pair
from inferplane.errors import ConfigError, InferplaneError
from inferplane.frames import FrameSocket
from inferplane.launch import LaunchPlan, LaunchSettings
from inferplane.planning import PluginReport, Survey, make_plan, survey
from inferplane.plugins import PluginSource, find_plugins

__all__ = ["PluginReport", "Survey", "main", "make_plan", "run_planner", "run_survey", "survey"]

_START_S = 30.0
"""An interpreter starts within this, on a machine that may be busy."""
_MODEL_S = 120.0
"""Reading a model's headers, perhaps over a network."""
_STAGE_S = 4.0
"""Every other stage: importing a light module, looking for a device."""
_PRINTED_BYTES = 2000


class _Ask(msgspec.Struct, frozen=True, tag=True):
    plugins: tuple[str, ...] | None
    without: tuple[str, ...]
    settings: LaunchSettings | None
    """None: a survey."""
    trace: bool = False
    lost: dict[str, str] = {}
    """Plugins known to kill or block the child -> how."""


class _Stage(msgspec.Struct, frozen=True, tag=True):
    name: str
    limit_s: float


class _Traced(msgspec.Struct, frozen=True, tag=True):
    call: str


class _Planned(msgspec.Struct, frozen=True, tag=True):
    plan: LaunchPlan


class _Surveyed(msgspec.Struct, frozen=True, tag=True):
    survey: Survey


class _Refused(msgspec.Struct, frozen=True, tag=True):
    kind: str
    message: str


_Answer: TypeAlias = _Planned | _Surveyed | _Refused
_Told: TypeAlias = _Stage | _Traced | _Answer


@dataclass(frozen=True, slots=True)
class _Lost:
    """The child gave no answer."""

    reason: str
    stage: str
    printed: str


def run_planner(settings: LaunchSettings) -> LaunchPlan:
    """`make_plan` in a child process.

    When the child dies or hangs, each plugin is tried in a child of its own; those that do it again
    are left out and listed in `LaunchPlan.failed`. Raises what `make_plan` raises.
    """
    ask = _Ask(settings.plugins, settings.without, settings, settings.trace_plugins)
    answer = _isolated(ask)
    assert isinstance(answer, _Planned)
    return answer.plan


def run_survey(
    plugins: Sequence[str] | None = None, without: Sequence[str] = (), trace: bool = False
) -> Survey:
    """`survey` in a child process; what dies or hangs there is a failed plugin.

    `trace` prints each call of a hook and its answer to the error output.
    """
    allowed = None if plugins is None else tuple(plugins)
    answer = _isolated(_Ask(allowed, tuple(without), None, trace))
    assert isinstance(answer, _Surveyed)
    return answer.survey


def _isolated(ask: _Ask) -> _Planned | _Surveyed:
    answer = _ask_child(ask)
    if isinstance(answer, _Lost):
        lost = _culprits(ask)
        if lost:
            answer = _ask_child(msgspec.structs.replace(ask, lost=lost))
    if isinstance(answer, _Lost):
        printed = answer.printed or "nothing"
        raise ConfigError(f"planning {answer.reason} at: {answer.stage}. It printed: {printed}")
    if isinstance(answer, _Refused):
        kind = getattr(errors, answer.kind, ConfigError)
        raise (kind if issubclass(kind, ConfigError) else ConfigError)(answer.message)
    return answer


def _culprits(ask: _Ask) -> dict[str, str]:
    """Plugins that kill or block a child of their own, all tried at once -> how."""
    sources = [s for s in find_plugins(ask.plugins, ask.without)]
    if not sources:
        return {}
    with ThreadPoolExecutor(len(sources)) as pool:
        answers = list(pool.map(lambda s: _ask_child(_Ask((_asked_as(s),), (), None)), sources))
    return {
        source.name: f"{answer.reason} at: {answer.stage}"
        for source, answer in zip(sources, answers, strict=True)
        if isinstance(answer, _Lost)
    }


def _asked_as(source: PluginSource) -> str:
    return source.name if source.distribution else source.module


def _ask_child(ask: _Ask) -> _Answer | _Lost:
    with tempfile.TemporaryFile() as printed:
        with socket_pair() as (ours, theirs):
            child = subprocess.Popen(
                [sys.executable, "-m", "inferplane.planner", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # so that what it started can be ended with it
            )
        link = FrameSocket(ours)
        try:
            link.send(msgspec.msgpack.encode(ask))
            answer = _await_answer(link)
            died = link.closed
        finally:
            _end(child)
            link.close()
        if not isinstance(answer, _Stage):
            return answer
        size = printed.seek(0, os.SEEK_END)
        printed.seek(max(0, size - _PRINTED_BYTES))
        text = printed.read().decode(errors="replace").strip()
        reason = _how(child.returncode) if died else f"took over {answer.limit_s:g} s"
        return _Lost(reason, answer.name, text)


def _await_answer(link: FrameSocket) -> _Answer | _Stage:
    """The child's answer, or the stage in which it fell silent."""
    decode = msgspec.msgpack.Decoder(_Told).decode
    stage = _Stage("start", _START_S)
    deadline = time.monotonic() + stage.limit_s
    while True:
        payload = link.take()
        if payload is not None:
            told: _Told = decode(payload)
            if isinstance(told, _Traced):
                print(f"plugins: {told.call}", file=sys.stderr, flush=True)
                continue
            if not isinstance(told, _Stage):
                return told
            stage, deadline = told, time.monotonic() + told.limit_s
        elif link.closed or time.monotonic() >= deadline:
            return stage
        else:
            link.wait(deadline - time.monotonic())


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _how(returncode: int) -> str:
    return f"died of signal {-returncode}" if returncode < 0 else f"ended with code {returncode}"


def _serve(link: FrameSocket, ask: _Ask) -> None:
    def note(stage: str) -> None:
        limit = _MODEL_S if stage == "read the model" else _STAGE_S
        link.send(msgspec.msgpack.encode(_Stage(stage, limit)))

    def trace(call: str) -> None:
        if ask.trace:
            link.send(msgspec.msgpack.encode(_Traced(call)))

    answer: _Answer
    try:
        if ask.settings is None:
            answer = _Surveyed(survey(ask.plugins, ask.without, None, note, ask.lost, trace))
        else:
            answer = _Planned(make_plan(ask.settings, None, note, ask.lost, trace))
        payload = msgspec.msgpack.encode(answer)
        msgspec.msgpack.decode(payload, type=_Told)  # plugins may answer what is no plain data
    except InferplaneError as error:
        payload = msgspec.msgpack.encode(_Refused(type(error).__name__, str(error)))
    except (TypeError, msgspec.ValidationError) as error:
        message = f"a plugin answered the planner with something else than asked: {error}"
        payload = msgspec.msgpack.encode(_Refused("ConfigError", message))
    link.send(payload)
    link.drain(_STAGE_S)


def main(arguments: list[str]) -> None:
    """Answer the one question that comes over the socket."""
    die_with_parent()
    link = FrameSocket(socket.socket(fileno=int(arguments[0])))
    _serve(link, msgspec.msgpack.decode(link.receive(), type=_Ask))


if __name__ == "__main__":
    main(sys.argv[1:])
