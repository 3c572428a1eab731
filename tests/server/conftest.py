"""A real server on a real socket, over the null device: everything but the arithmetic."""

import asyncio
import io
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
import uvloop

from inferplane.config import ServeSettings
from inferplane.interfaces import EngineConfig
from inferplane.launch import LaunchSettings, SchedulerConfig
from inferplane.server.banner import Banner
from inferplane.server.context import ServerContext
from inferplane.server.limits import Limits
from inferplane.server.run import make_server, open_socket, run_server
from inferplane.testing.tiny import write_tiny_model

MODEL = "tiny"
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
    "{% if shout is defined and shout %}!{% endif %}"
)


def null_settings(folder: Path, *, options=None, scheduler=None, config=None, task="auto", **more):
    """Settings of a server over the null device."""
    named = {"max_model_len": 512, "max_num_seqs": 16, "max_batched_tokens": 256} | (config or {})
    engine = EngineConfig(model=str(folder), device="null", options=options or {}, **named)
    launch = LaunchSettings(
        config=engine,
        scheduler=scheduler or SchedulerConfig(),
        plugins=("inferplane.testing.null",),
        task=task,
    )
    defaults = {
        "model_source": MODEL,
        "port": 0,
        "load_wait_s": 20.0,
        "drain_delay_s": 0.0,
        "shutdown_timeout_s": 5.0,
    }
    return ServeSettings(launch=launch, **(defaults | more))


class LiveServer:
    """A server in a thread of its own."""

    def __init__(self, settings: ServeSettings, limits: Limits | None = None) -> None:
        self.listener = open_socket(settings)
        self.output = io.StringIO()
        self.server = make_server(settings, Banner(settings, stream=self.output), limits)
        self.exit_code: int | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        with self.listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            self.loop = runner.get_loop()
            self.exit_code = runner.run(run_server(self.server, self.listener))

    @property
    def context(self) -> ServerContext:
        return self.server.context

    @property
    def port(self) -> int:
        return self.listener.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, key: str = "", **more) -> httpx2.Client:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=60.0, **more)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60.0)

    def wait_ready(self, key: str = "") -> None:
        """A first answer, which waits for the engine."""
        with self.client(key) as client:
            assert client.post("/v1/completions", json={"prompt": "a"}).status_code == 200

    def call(self, work: Callable[[], object]) -> object:
        """Run something on the server's own loop and wait for it."""

        async def wrapped():
            found = work()
            return await found if asyncio.iscoroutine(found) else found

        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(wrapped(), self.loop).result(60.0)

    def stats(self):
        return self.call(self.context.engine.stats)

    def stop(self) -> int | None:
        if self.thread.is_alive() and self.loop is not None:
            self.loop.call_soon_threadsafe(self._end)
        self.thread.join(60.0)
        return self.exit_code

    def _end(self) -> None:
        self.server.should_exit = True


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "tiny"
    write_tiny_model(folder, "llama")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="session")
def settings_for(model_folder: Path) -> Callable[..., ServeSettings]:
    """Settings of a server over the null device."""
    return lambda **more: null_settings(model_folder, **more)


@pytest.fixture(scope="module")
def start(model_folder: Path) -> Iterator[Callable[..., LiveServer]]:
    """Start further servers; all are stopped at the end of the module."""
    made: list[LiveServer] = []

    def begin(limits: Limits | None = None, folder=model_folder, **settings) -> LiveServer:
        made.append(LiveServer(null_settings(folder, **settings), limits))
        return made[-1]

    yield begin
    for server in made:
        server.stop()


@pytest.fixture(scope="session")
def live(model_folder: Path) -> Iterator[LiveServer]:
    """One server for all tests that leave it as it was."""
    server = LiveServer(null_settings(model_folder, served_names=(MODEL, "alias", "org/name")))
    server.wait_ready()
    yield server
    server.stop()


@pytest.fixture
def http(live: LiveServer) -> Iterator[httpx2.Client]:
    with live.client() as client:
        yield client
