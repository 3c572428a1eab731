"""How each system is started in its own environment, offline and as a server.

A server whose turn it is not is stopped, whole: idle threads of some spin, and share the cores.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from inferplane.cli.bench.workloads import Workload

__all__ = ["OfflinePeer", "PeerFailedError", "Served", "System", "alone", "free_port", "served"]

_DRIVERS = Path(__file__).parent / "drivers"
_START_S = 600.0


class PeerFailedError(SystemExit):
    """A contestant ended by itself; says what it last printed."""


@dataclass(frozen=True, slots=True)
class System:
    """One contestant: its name, its kind (ours or a driver's name), its interpreter."""

    name: str
    kind: str
    python: str

    def environment(self, threads: int) -> dict[str, str]:
        """What its documentation asks for on a CPU."""
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "0"}
        if self.kind != "vllm":
            return environment
        found = self._preloaded()
        for missing in [pattern for pattern, path in found.items() if path is None]:
            print(f"{self.name}: no {missing} found to preload, so it runs slower than it could")
        libraries = [str(path) for path in found.values() if path is not None]
        return {
            **environment,
            "LD_PRELOAD": ":".join(libraries),
            "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
            "VLLM_CPU_KVCACHE_SPACE": "2",
        }

    def _preloaded(self) -> dict[str, Path | None]:
        roots = (Path(self.python).parent.parent, Path("/usr/lib"))
        return {
            pattern: next((path for root in roots for path in sorted(root.rglob(pattern))), None)
            for pattern in ("libtcmalloc_minimal.so*", "libiomp5.so")
        }

    def server_command(self, model: str, port: int, max_model_len: int) -> list[str]:
        """Its own server on that port."""
        listen = ["--host", "127.0.0.1", "--port", str(port)]
        if self.kind == "transformers":
            return [self.python, "-m", "transformers.cli.transformers", "serve", model, *listen]
        length = ["--max-model-len", str(max_model_len), "--dtype", "bfloat16"]
        if self.kind == "vllm":
            main = "vllm.entrypoints.openai.api_server"
            plain = ["--no-enable-prefix-caching"]
            return [self.python, "-m", main, "--model", model, *listen, *length, *plain]
        plain = ["--no-prefix-cache"]
        return [self.python, "-m", "inferplane", "serve", model, *listen, *length, *plain]


class OfflinePeer:
    """A driver process that holds a loaded model and runs workloads on demand."""

    def __init__(self, system: System, start: dict[str, Any]) -> None:
        driver = "inferplane" if system.kind == "ours" else system.kind
        self._system = system
        self._told = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the driver)
        self._process = subprocess.Popen(
            [system.python, str(_DRIVERS / f"{driver}_offline.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._told if not os.environ.get("BENCH_VERBOSE") else None,
            text=True,
            env=system.environment(start["threads"]),
        )
        ready = self._call(start)
        self.version = f"{ready['version']}, loaded in {ready['ready_s']:.1f} s"

    @property
    def pid(self) -> int:
        """The driver's process; engines may be its children."""
        return self._process.pid

    def run(self, workload: Workload) -> float:
        """Seconds for the workload."""
        work = {
            "prompts": [prompt.ids for prompt in workload.prompts],
            "outputs": [prompt.num_output for prompt in workload.prompts],
            "concurrency": workload.concurrency,
        }
        return float(self._call(work)["seconds"])

    def close(self) -> None:
        """End the driver: it leaves at the end of its input."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(60)
        self._told.close()

    def _call(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._told.seek(0)
            last = [line for line in self._told.read().splitlines() if line.strip()][-1:]
            raise PeerFailedError(f"{self._system.name} ended with {status}: {''.join(last)}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def free_port() -> int:
    """A port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Served:
    """A running server."""

    url: str
    pid: int

    def stop(self) -> None:
        """Halt it and all its processes; requests wait."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it run again."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        server = psutil.Process(self.pid)
        for process in (*server.children(recursive=True), server):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)


@contextlib.contextmanager
def alone(served_now: Served, others: Iterable[Served]) -> Iterator[None]:
    """Only `served_now` runs for the duration of a block; all run after it."""
    halted = [server for server in others if server is not served_now]
    for server in halted:
        server.stop()
    try:
        yield
    finally:
        for server in halted:
            server.go_on()


@contextlib.contextmanager
def served(command: Sequence[str], environment: dict[str, str], port: int) -> Iterator[Served]:
    """A server for the duration of a block, once /health answers."""
    quiet = None if os.environ.get("BENCH_VERBOSE") else subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_answering(process, url)
        yield Served(url, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_answering(process: subprocess.Popen[bytes], url: str) -> None:
    """/health says when a model is loaded, in ours and in every peer."""
    began = time.monotonic()
    while time.monotonic() - began < _START_S:
        if process.poll() is not None:
            raise SystemExit(f"a server ended with {process.returncode}; BENCH_VERBOSE=1 shows why")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise SystemExit(f"a server was not ready after {_START_S:.0f} s")
