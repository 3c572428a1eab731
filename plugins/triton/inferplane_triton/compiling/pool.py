"""Processes that compile kernels side by side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Queue
from typing import cast

from triton import knobs

from inferplane_triton.compiling.jobs import Job, as_line

__all__ = ["CompilePool"]

_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from inferplane_triton.compiling.worker import main; main()"
)

Child = subprocess.Popen[bytes]


class CompilePool:
    """All start at once, at construction. One that dies costs its job and is replaced."""

    def __init__(self, processes: int) -> None:
        self._threads = ThreadPoolExecutor(processes, "compile")
        self._idle: Queue[Child] = Queue(processes)
        self._children: list[Child] = []
        self._closed = False
        for _ in range(processes):
            self._idle.put(self._start())

    def submit(self, job: Job) -> Future[float]:
        """The seconds it took; RuntimeError with the compiler's words when it failed."""
        return self._threads.submit(self._run, job)

    def close(self) -> None:
        """Drop what has not begun, end the processes; calling it again does nothing."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for child in self._children:
            child.kill()
        self._threads.shutdown(wait=True)
        for child in self._children:
            child.communicate()
        self._children.clear()

    def _run(self, job: Job) -> float:
        child = self._idle.get()
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(as_line(job))
            child.stdin.flush()
            answer = cast("float | str", json.loads(child.stdout.readline()))
        except (OSError, ValueError) as error:
            child.kill()
            if not self._closed:
                child = self._start()
            raise RuntimeError(f"a compiling process ended: {error}") from error
        finally:
            self._idle.put(child)
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer

    def _start(self) -> Child:
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TRITON_CACHE_DIR": knobs.cache.dir},
        )
        self._children.append(child)
        return child
