"""What the terminal shows while something takes time: bars for people, plain lines for logs."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

__all__ = ["FetchDisplay", "megabytes"]

_LINE_EVERY_S = 5.0


def megabytes(size_bytes: float) -> str:
    """Such as "89 MiB"."""
    return f"{size_bytes / 2**20:,.0f} MiB"


class FetchDisplay:
    """Shows a model being fetched; call it as `Progress` of the catalogue. Silent until called.

    On a terminal one bar a phase, elsewhere a line at the start, every five seconds and at the end.
    """

    def __init__(self, name: str, stream: TextIO | None = None) -> None:
        self._name = name
        self._stream = stream or sys.stderr
        self._bars: Bars | None = None
        self._rows: dict[str, TaskID] = {}
        self._printed: dict[str, tuple[float, int]] = {}
        """Phase -> when its last line was printed, and the bytes it told."""

    def __enter__(self) -> FetchDisplay:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._stream.isatty():
            self._draw(what, done, total)
        else:
            self._print(what, done, total)

    def _draw(self, what: str, done: int, total: int) -> None:
        if self._bars is None:
            self._bars = self._new_bars()
        if what not in self._rows:
            self._rows[what] = self._bars.add_task(f"{what} {self._name}", total=total)
        self._bars.update(self._rows[what], completed=done, total=total)

    def _new_bars(self) -> Bars:
        from rich.console import Console  # 30 ms, only when something is drawn
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        bars = Progress(*columns, console=Console(file=self._stream))
        bars.start()
        return bars

    def _print(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        last, told = self._printed.get(what, (now - _LINE_EVERY_S, -1))
        if done == told or (done < total and now - last < _LINE_EVERY_S):
            return
        self._printed[what] = (now, done)
        percent = 100 * done // total if total else 100
        line = f"{what} {self._name}: {megabytes(done)} of {megabytes(total)}, {percent} %"
        print(line, file=self._stream, flush=True)
