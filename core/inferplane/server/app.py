"""Puts the layers together: front door, router, built-in and foreign routes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from inferplane.registry import Catalogue, Entry
from inferplane.server import plugin
from inferplane.server.context import ServerContext
from inferplane.server.front_door import Ended, FrontDoor, RequestRules
from inferplane.server.request_log import log_request
from inferplane.server.routing import GatedRouter, ScopedRoute
from inferplane.server.shares import Shares

__all__ = ["App", "add_foreign_routes", "create_app", "rules_of", "shares_of"]


class App(Starlette):
    """A Starlette application whose requests all pass the front door."""

    def __init__(self, context: ServerContext) -> None:
        super().__init__(lifespan=lambda _: _lifespan(context))
        self.context = context
        self.gate = GatedRouter(_built_in_routes(context), context.keys, shares_of(context))
        context.gate = self.gate
        self.door = FrontDoor(self.gate, rules_of(context), _on_end(context), context.note_failure)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. Only lifespan goes the framework's way."""
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
        else:
            scope["app"] = self
            await self.door(scope, receive, send)


def create_app(context: ServerContext) -> App:
    """The application of one server."""
    return App(context)


@asynccontextmanager
async def _lifespan(context: ServerContext) -> AsyncIterator[None]:
    context.start()
    await context.engine.start()
    try:
        yield
    finally:
        await context.close()


def rules_of(context: ServerContext) -> RequestRules:
    """What requests must look like, by the settings."""
    settings = context.settings
    keyless = not settings.api_keys
    return RequestRules(
        root_path=settings.root_path.rstrip("/"),
        loopback_hosts_only=keyless and not settings.insecure_no_auth and settings.uds is None,
        keyless=keyless,
        any_host=settings.uds is not None,
        origins=settings.allowed_origins,
    )


def shares_of(context: ServerContext) -> Shares:
    """What the engine can hold, to be divided among keys."""
    launch = context.settings.launch
    running = launch.config.max_num_seqs
    waiting = launch.scheduler.max_waiting or 4 * running
    return Shares(running, waiting, queue_wait_s=context.metrics.queue_wait_s)


def _built_in_routes(context: ServerContext) -> list[ScopedRoute]:
    lines: list[tuple[str, Entry]] = []

    def register(name: str, target: str, *, on: tuple[str, ...] = (), priority: int = 0) -> None:
        lines.append(("routes", Entry(name, target, "inferplane", on, priority)))

    plugin.register_routes(register)
    found: list[ScopedRoute] = []
    for entry in Catalogue(lines)["routes"]:
        found += entry.load()(context)
    return found


def add_foreign_routes(app: App, catalogue: Catalogue) -> None:
    """Take in routes of installed plugins; one that fails is logged and left out."""
    context = app.context
    for entry in catalogue["routes"]:
        if entry.owner == "inferplane":
            continue
        try:
            app.gate.add(entry.load()(context))
        except Exception as error:
            told = "routes %s of plugin %s left out: %s"
            context.logger.error(told, entry.name, entry.owner, error)


def _on_end(context: ServerContext) -> Callable[[Ended], None]:
    def ended(request: Ended) -> None:
        context.metrics.note_answer(request.method, request.route, request.status, request.seconds)
        log_request(context.logger, request)
        if context.tracing is not None:
            context.tracing.note(request)

    return ended
