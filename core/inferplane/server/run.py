"""Runs one server: socket first, engine behind it, drain at the end, an honest exit code."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
import stat
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType

import uvicorn
import uvloop

from inferplane.checkpoint import open_checkpoint
from inferplane.config import ServeSettings
from inferplane.engine.client import EngineClient
from inferplane.errors import AddressError, ConfigError, EngineError, InferplaneError
from inferplane.model_config import read_model_config
from inferplane.models.pictures import takes_pictures
from inferplane.server.app import App, add_foreign_routes, create_app
from inferplane.server.banner import Banner
from inferplane.server.context import ServerContext
from inferplane.server.guard import Guard
from inferplane.server.key_file import KeyFile
from inferplane.server.limits import MEDIA_BODY_BYTES, Limits
from inferplane.server.probe_port import ProbePort
from inferplane.server.request_log import configure_logging
from inferplane.server.routes.metrics import refresh
from inferplane.server.tls import Certificate
from inferplane.server.tracing import Tracing

__all__ = ["DrainingServer", "check_exposure", "make_server", "open_socket", "run_server", "serve"]

_LOOK_S = 0.1
_STATS_S = 1.0
_LAST_FRAMES_S = 2
"""After the drain is over, time for the last error frames."""
_BACKLOG = 2048


def serve(settings: ServeSettings) -> int:
    """Serve until a signal or a failure ends it; returns the exit code of the process.

    Raises ConfigError for a setting that cannot be served, AddressError for the address.
    """
    check_exposure(settings)
    configure_logging(settings.log_format)
    with open_socket(settings) as listener:
        banner = Banner(settings, quiet=settings.log_format == "json")
        server = make_server(settings, banner)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(run_server(server, listener))


def check_exposure(settings: ServeSettings) -> None:
    """Refuse to be reachable by others without a key. Raises ConfigError."""
    if settings.uds is not None or settings.api_keys or settings.insecure_no_auth:
        return
    if not _is_loopback(settings.host):
        raise ConfigError(
            f"host {settings.host!r} can be reached from other machines, and there is no key: set "
            "INFERPLANE_API_KEY or --api-key-file, listen on 127.0.0.1, or accept it with "
            "--insecure-no-auth"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def open_socket(settings: ServeSettings) -> socket.socket:
    """The listening socket. Raises AddressError."""
    try:
        if settings.uds is not None:
            return _unix_socket(settings.uds)
        return _tcp_socket(settings.host, settings.port)
    except OSError as error:
        where = settings.uds or f"{settings.host}:{settings.port}"
        raise AddressError(
            f"cannot listen on {where}: {error.strerror}; --port 0 takes a free port"
        ) from None


def _probe_port(settings: ServeSettings, context: ServerContext) -> ProbePort | None:
    """Where probes are answered besides. Raises AddressError."""
    if settings.probe_port is None:
        return None
    try:
        return ProbePort(context, _tcp_socket(settings.host, settings.probe_port))
    except OSError as error:
        raise AddressError(
            f"cannot answer probes on {settings.host}:{settings.probe_port}: {error.strerror}; "
            "--probe-port 0 takes a free port"
        ) from None


def _tcp_socket(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(_BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def _unix_socket(path: Path) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.stat().st_mode):
            path.unlink()  # left behind by a server that is gone
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        made.bind(str(path))
        made.listen(_BACKLOG)
    except OSError:
        made.close()
        raise
    finally:
        os.umask(before)
    return made


def make_server(
    settings: ServeSettings, banner: Banner, limits: Limits | None = None
) -> DrainingServer:
    """A server that is not started; its engine begins to be planned."""
    certificate = Certificate.of(settings, logging.getLogger("inferplane.server"))
    tracing = Tracing.to(settings.otlp_endpoint) if settings.otlp_endpoint else None
    client = EngineClient.launch(settings.launch)
    context = ServerContext(settings, client, limits or _limits_of(settings))
    context.tracing = tracing
    return DrainingServer(context, create_app(context), banner, certificate)


def _limits_of(settings: ServeSettings) -> Limits:
    """Bodies with pictures are larger. A checkpoint that cannot be read fails when it is loaded."""
    limits = Limits(connections=settings.max_connections)
    try:
        config = read_model_config(open_checkpoint(Path(settings.launch.config.model)))
    except InferplaneError:
        return limits
    return replace(limits, body_bytes=MEDIA_BODY_BYTES) if takes_pictures(config) else limits


async def run_server(server: DrainingServer, listener: socket.socket) -> int:
    """Serve until the end; returns the exit code."""
    context = server.context
    url = _url(context.settings, listener)
    if server.probe_port is not None:
        server.probe_port.start()
    server.announce("listening", url)
    server.banner.listening(url)
    watching = asyncio.create_task(server.watch(url))
    try:
        await server.serve(sockets=[listener])
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await context.engine.close()
        await context.close()
        if server.probe_port is not None:
            await asyncio.to_thread(server.probe_port.close)
    return server.exit_code


def _url(settings: ServeSettings, listener: socket.socket) -> str:
    if settings.uds is not None:
        return f"unix:{settings.uds}"
    scheme = "http" if settings.tls_cert is None else "https"
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


class DrainingServer(uvicorn.Server):
    """uvicorn's server with our end: a signal drains, a second one ends at once."""

    def __init__(
        self, context: ServerContext, app: App, banner: Banner, certificate: Certificate | None
    ) -> None:
        guard = Guard(context.limits, context.metrics.note_refused_connection)
        super().__init__(
            uvicorn.Config(
                app,
                http=guard.protocol,  # type: ignore[arg-type]
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=context.limits.keep_alive_s,
                timeout_graceful_shutdown=_LAST_FRAMES_S,
                backlog=_BACKLOG,
                ssl_context_factory=None if certificate is None else lambda *_: certificate.context,
            )
        )
        self.certificate = certificate
        self.probe_port = _probe_port(context.settings, context)
        self.context = context
        self.app = app
        self.banner = banner
        self.exit_code = 0
        self.key_file = KeyFile(context.settings, context.keys, context.logger)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Signals, on the main thread. They are not raised again at the end: this is the end."""
        lifecycle = self.context.lifecycle
        if lifecycle.draining:
            self.should_exit = self.force_exit = True
            return
        lifecycle.drain(delayed=sig == signal.SIGTERM and lifecycle.ready_since is not None)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether it is time to close."""
        ended = await super().on_tick(counter)
        if self.probe_port is not None:
            self.probe_port.beat()
        lifecycle = self.context.lifecycle
        if not ended and not lifecycle.over:
            return False
        if lifecycle.running:
            await self.context.engine.close()  # streams that are left end with an error frame
        return True

    async def watch(self, url: str) -> None:
        """Follow start-up, then the engine's health; a failure ends the server."""
        try:
            await self._follow_start(url)
            await self._follow_engine()
        except InferplaneError as error:
            self.fail(str(error), error.exit_code)
        except Exception as error:
            self.context.logger.error("unexpected failure", exc_info=error)
            self.fail("the server failed; the log has the reason", 1)

    async def _follow_start(self, url: str) -> None:
        context, banner = self.context, self.banner
        planned = False
        while not context.has_started():
            self._raise_failure()
            plan = context.engine.plan
            if plan is not None and not planned:
                planned = True
                banner.planned(plan)
                add_foreign_routes(self.app, plan.catalogue())
            banner.progress(context)
            await asyncio.sleep(_LOOK_S)
        took_s = time.monotonic() - context.lifecycle.began
        await refresh(context)
        self.announce("ready", url)
        banner.ready(context, url, took_s)

    async def _follow_engine(self) -> None:
        told = False
        while True:
            self._raise_failure()
            await refresh(self.context)
            self.key_file.look()
            if self.certificate is not None:
                self.certificate.look()
            if self.context.lifecycle.draining and not told:
                told = True
                self.banner.draining(self.context.lifecycle.running)
            await asyncio.sleep(_STATS_S)

    def _raise_failure(self) -> None:
        """Raise why the model or the engine failed for good."""
        self.context.raise_load_failure()
        status = self.context.engine.status
        if status.phase == "failed":
            failure = status.failure
            raise (
                failure
                if isinstance(failure, InferplaneError)
                else EngineError("engine_dead", status.detail)
            )

    def announce(self, event: str, url: str) -> None:
        """Into the log, where no banner says it."""
        if self.banner.quiet:
            self.context.logger.info(event, extra={"facts": {"url": url}})

    def fail(self, message: str, exit_code: int) -> None:
        """End with an error."""
        self.exit_code = exit_code
        if self.banner.quiet:
            self.context.logger.error("%s", message)
        self.banner.failed(message)
        self.should_exit = True
