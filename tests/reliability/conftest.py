"""Runs of a real server in its own processes, over the null device.

Small by default; `scripts/reliability` runs them at the sizes of docs/reliability.md, holds them to
the times promised there and records the figures.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from inferplane.testing.tiny import write_tiny_model

FULL = os.environ.get("RELIABILITY") == "full"
REPORT = os.environ.get("RELIABILITY_REPORT")


class Served:
    """`inferplane serve` over the null device."""

    def __init__(
        self, folder: Path, *flags: str, port: int = 0, open_files: int = 0, **options: Any
    ) -> None:
        """With `open_files` it may have no more of them open."""
        given = [f"--options={name}={value}" for name, value in options.items()]
        command = [sys.executable, "-m", "inferplane", "serve", str(folder), "--device", "null"]
        command += ["--plugins", "inferplane.testing.null", "--port", str(port)]
        command += ["--served-names", "tiny", "--max-model-len", "512", *given, *flags]
        if open_files:
            command = ["sh", "-c", f'ulimit -n {open_files}; exec "$@"', "sh", *command]
        self.key = "authorization: Bearer k0\r\n" if "--api-key-file" in flags else ""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed by `stop`
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            found = [word.rstrip(",") for word in line.split() if word.startswith("http://")]
            if found:
                self.port = int(found[0].rpartition(":")[2])
            if line.startswith("Ready"):
                break
        else:
            raise AssertionError(f"the server did not start: {self.last_words()}")

    @property
    def family(self) -> list[psutil.Process]:
        """The server's process and all below it."""
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def stop(self) -> int:
        """Kill it if it still runs; its exit code."""
        if self.process.poll() is None:
            self.process.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()
        return self.process.wait()

    def last_words(self) -> str:
        """Its exit code, if it has ended, and the end of its log."""
        self._log.seek(0)
        end = self._log.read().decode(errors="replace")[-2000:]
        return f"exit code {self.process.poll()}, log:\n{end}"

    # ── one connection each ──

    async def ask(
        self, method: str, path: str, body: Any = None, headers: str = ""
    ) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body) of one request."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except ConnectionRefusedError:
            raise AssertionError(f"nobody listens any more: {self.last_words()}") from None
        try:
            writer.write(request_bytes(method, path, body, headers))
            return parsed(await reader.read())
        finally:
            writer.close()

    async def metrics(self) -> dict[str, float]:
        """Values by name, series of one name added up; waits for the step under way."""
        _, _, text = await self.ask("GET", "/metrics", headers=self.key)
        found: dict[str, float] = {}
        for line in text.decode().splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                name = name.partition("{")[0].removeprefix("inferplane_")
                found[name] = found.get(name, 0.0) + float(value)
        return found

    async def idle(self) -> bool:
        """Whether no request is known and no block held."""
        told = await self.metrics()
        held = ("requests_running", "requests_waiting", "kv_cache_usage_ratio")
        return all(told[name] == 0 for name in held)


def request_bytes(method: str, path: str, body: Any = None, headers: str = "") -> bytes:
    """A whole request, after which the connection ends."""
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n{headers}"
    if body is not None:
        head += f"content-type: application/json\r\ncontent-length: {len(data)}\r\n"
    return head.encode() + b"\r\n" + data


def parsed(data: bytes) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body); status 0 when there is no answer."""
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    if not lines[0]:
        return 0, {}, b""
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
    if headers.get("transfer-encoding") == "chunked":
        body = unchunked(body)
    return int(lines[0].split()[1]), headers, body


def unchunked(data: bytes) -> bytes:
    """The content of a chunked body, as far as it came."""
    parts = []
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size or b"0", 16)
        parts.append(data[:length])
        data = data[length + 2 :]
    return b"".join(parts)


def leave(writer: asyncio.StreamWriter, how: str) -> None:
    """Cut a connection: "reset", "close" or "half-close"."""
    link = writer.get_extra_info("socket")
    if how == "reset":
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "half-close":
        writer.write_eof()
        return
    writer.transport.abort() if how == "reset" else writer.close()


@pytest.fixture(scope="session")
def full() -> bool:
    """Whether to run at full size and to hold the promised times."""
    return FULL


@pytest.fixture(scope="session")
def served_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reliability") / "tiny"
    write_tiny_model(folder, "llama")
    return folder


def starting(folder: Path) -> Iterator[Callable[..., Served]]:
    """What starts servers, until all are ended."""
    made: list[Served] = []

    def begin(*flags: str, **options: Any) -> Served:
        made.append(Served(folder, *flags, **options))
        return made[-1]

    yield begin
    for one in made:
        one.stop()


@pytest.fixture
def serve(served_folder: Path) -> Iterator[Callable[..., Served]]:
    """Start servers; all have ended after the test."""
    yield from starting(served_folder)


@pytest.fixture(scope="module")
def serve_all(served_folder: Path) -> Iterator[Callable[..., Served]]:
    """Start servers that all tests of a file share."""
    yield from starting(served_folder)


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten keys, k0 to k9, each its own text."""
    path = tmp_path_factory.mktemp("keys") / "keys"
    lines = (f"k{n} {hashlib.sha256(b'k%d' % n).hexdigest()} infer,metrics" for n in range(10))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def wire() -> Any:
    """The functions of this file that tests use."""

    class Wire:
        request_bytes = staticmethod(request_bytes)
        parsed = staticmethod(parsed)
        leave = staticmethod(leave)

    return Wire


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """The same numbers in each run of a test."""
    return random.Random(request.node.name)


@pytest.fixture
def until() -> Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]:
    """Await until an asynchronous condition holds."""

    async def wait(condition: Callable[[], Awaitable[bool]]) -> None:
        while not await condition():
            await asyncio.sleep(0.02)

    return wait


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Print figures; a full run remembers them under the test's name."""

    def note(**figures: object) -> None:
        name = request.node.name
        print(f"\n{name}: " + ", ".join(f"{key} {value}" for key, value in figures.items()))
        if REPORT:
            file = Path(REPORT)
            held = json.loads(file.read_text()) if file.exists() else {}
            held[name] = figures
            file.write_text(json.dumps(held, indent=2, sort_keys=True) + "\n")

    return note
