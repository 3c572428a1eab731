"""A start without waiting for one kernel after another: steps are rehearsed, kernels only noted.

While a rehearsal runs, no kernel of Triton's is launched. Each that would have been is noted, and
what Triton's cache on disk lacks is compiled in processes of its own; the real launch finds it
there. Nothing depends on its success: a kernel that failed here is compiled where it is needed.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton import knobs
from triton.runtime import driver

from inferplane.interfaces import ArtifactCache
from inferplane_triton.compiling.jobs import Job, is_stored, stored_under
from inferplane_triton.compiling.pool import CompilePool

__all__ = ["Rehearsal", "RehearsalStats"]

_logger = logging.getLogger(__name__)
_MOST = 16
"""Processes: each holds some 150 MB, and a start needs a few dozen kernels."""


@dataclass(slots=True)
class RehearsalStats:
    """What a start's rehearsals came to."""

    kernels: int = 0
    compiled: int = 0
    failed: int = 0
    waited_s: float = 0.0
    """Until the last was there, from the end of the last rehearsal."""
    worked_s: float = 0.0
    """Of all processes together."""


class Rehearsal:
    """For one device of a worker; nothing happens where a start like this one has been before."""

    def __init__(self, cache: ArtifactCache, processes: int = 0) -> None:
        """`processes` 0 = as many as there are cores for this one, 16 at most."""
        self.stats = RehearsalStats()
        self.active = False
        self._cache = cache
        self._entry = f"kernels-triton-{triton.__version__}.json"
        self._stored: dict[str, str] = {}
        self._skipped: list[tuple[dict[Any, Any], Any]] = []
        self._futures: list[tuple[Job, Future[float]]] = []
        self._processes = processes or min(_MOST, len(os.sched_getaffinity(0)))
        self._pool: CompilePool | None = None
        self.wanted = not knobs.runtime.interpret and not self._is_known()

    @contextmanager
    def run(self, last: bool) -> Iterator[bool]:
        """Entered around steps whose results nobody reads; False = they need not be run.

        With `last` all kernels are there when it is left.
        """
        if not self.wanted:
            yield False
            return
        if self._pool is None:
            self._pool = CompilePool(self._processes)
        before = knobs.runtime.jit_cache_hook
        knobs.runtime.jit_cache_hook = self._note
        self.active = True
        try:
            yield True
        finally:
            self.active = False
            knobs.runtime.jit_cache_hook = before
            for kernels, key in self._skipped:
                kernels.pop(key, None)
            self._skipped.clear()
            if last:
                self._finish()

    def close(self) -> None:
        """End the processes; what they have not compiled is compiled where it is needed."""
        self.wanted = False
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _note(self, *, key: Any, fn: Any, compile: Any, **_: Any) -> bool:
        """Triton's hook before a kernel is compiled; True = it is neither compiled nor launched."""
        self.stats.kernels += 1
        try:
            kernels = fn.jit_function.device_caches[compile["device"]][0]
            kernels[key] = _SKIPPED
            self._skipped.append((kernels, key))
            job = _job(fn, compile)
            name, file = stored_under(job)
        except Exception as error:  # of a Triton that keeps other facts: nothing is lost but time
            self.stats.failed += 1
            _logger.warning("kernel %s cannot be compiled ahead: %s", fn.name, error)
            return True
        if name not in self._stored and not is_stored(name, file) and self._pool is not None:
            self._futures.append((job, self._pool.submit(job)))
        self._stored[name] = file
        return True

    def _finish(self) -> None:
        began = time.perf_counter()
        for job, future in self._futures:
            try:
                self.stats.worked_s += future.result()
                self.stats.compiled += 1
            except Exception as error:
                self.stats.failed += 1
                _logger.warning("compiling %s ahead failed: %s", job.function, error)
        self.stats.waited_s = time.perf_counter() - began
        self._futures.clear()
        self.close()
        _logger.info(
            "%d Triton kernels rehearsed, %d compiled side by side in %.1f s (%.1f s of work, "
            "%d failed)",
            self.stats.kernels, self.stats.compiled, self.stats.waited_s, self.stats.worked_s,
            self.stats.failed,
        )  # fmt: skip
        if not self.stats.failed:
            self._remember()

    def _is_known(self) -> bool:
        """Whether a start with the same settings left its list, and all on it is still there."""
        path = self._cache.find(self._entry)
        if path is None:
            return False
        try:
            stored = json.loads(path.read_text())
            return all(is_stored(name, file) for name, file in stored.items())
        except (OSError, ValueError, AttributeError):
            return False

    def _remember(self) -> None:
        def write(path: Path) -> None:
            path.write_text(json.dumps(self._stored))

        try:
            self._cache.store(self._entry, write)
        except OSError as error:  # a home that cannot be written: the next start rehearses again
            _logger.info("the list of kernels is not kept: %s", error)


class _Skipped:
    """Stands where a kernel will be, and is launched like one."""

    function = packed_metadata = None

    def launch_metadata(self, *_: object) -> None:
        """Nothing to tell."""

    def run(self, *_: object) -> None:
        """Nothing happens."""


_SKIPPED = _Skipped()


def _job(fn: Any, compile: Any) -> Job:
    told = json.loads(compile["specialization_data"])
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in told["options"].items()}
    target = driver.active.get_current_target()
    return Job(
        fn.module,
        fn.name,
        compile["signature"],
        compile["constants"],
        compile["configs"][0],
        options,
        (target.backend, target.arch, target.warp_size),
    )
