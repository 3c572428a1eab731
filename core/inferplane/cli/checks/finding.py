"""The result of one check, and the machine it looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from inferplane.cli.plugin_table import PluginRow

__all__ = ["Check", "Finding", "Machine", "Status", "fail", "ok", "skip", "warn"]

Status: TypeAlias = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check saw; `fix` is a command or a step, and stands with every warning and failure."""

    status: Status
    seen: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the checks look, as data, so that faults can be simulated."""

    environ: Mapping[str, str]
    cache: Path
    host: str
    port: int
    has_key: bool
    plugins: tuple[PluginRow, ...]
    """As the planner child saw them."""
    root: Path = Path("/")
    """Where /proc, /sys and /dev hang."""


Check: TypeAlias = Callable[[Machine], Finding]


def ok(seen: str) -> Finding:
    """As it should be."""
    return Finding("ok", seen)


def skip(seen: str) -> Finding:
    """Does not apply here."""
    return Finding("skip", seen)


def warn(seen: str, fix: str) -> Finding:
    """Works, but not well or not for everything."""
    return Finding("warn", seen, fix)


def fail(seen: str, fix: str) -> Finding:
    """Does not work."""
    return Finding("fail", seen, fix)
