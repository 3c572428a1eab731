"""What every route of one server shares. Passed, never global."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from typing import Any

from inferplane.config import ServeSettings
from inferplane.engine.client import EngineClient
from inferplane.engine.messages import EngineInfo
from inferplane.errors import EngineError, InferplaneError
from inferplane.grammar.compile import GrammarCompiler
from inferplane.server.auth import KeyRing, new_secret
from inferplane.server.errors import ApiError, Problem
from inferplane.server.lifecycle import Lifecycle
from inferplane.server.limits import Limits
from inferplane.server.media.fetching import Fetcher
from inferplane.server.metrics import Metrics
from inferplane.server.routing import GatedRouter
from inferplane.server.served_model import ServedModel, load_served_model
from inferplane.server.stored.files import StoredFiles
from inferplane.server.stored.state import State
from inferplane.server.tracing import Tracing

__all__ = ["ModelCard", "ServerContext", "Serving", "own_name"]


@dataclass(frozen=True, slots=True)
class ModelCard:
    """How the model is called; the first name is written into answers."""

    names: tuple[str, ...]
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def name(self) -> str:
        """The name in answers."""
        return self.names[0]

    def resolve(self, asked: str | None) -> str:
        """The name to answer with. Raises ApiError `model_not_found`."""
        if asked is None or asked in self.names:
            return self.name
        close = get_close_matches(asked[:512], self.names, n=3, cutoff=0.3) or list(self.names[:3])
        raise ApiError.of(
            "model_not_found",
            "there is no model of that name",
            "model",
            f"served here: {', '.join(close)}",
        )


def own_name(source: str) -> str:
    """What a model is called when nobody says: its catalogue or hub name, or its file's."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path.resolve().name
    return path.stem if path.is_file() else source


@dataclass(frozen=True, slots=True)
class Serving:
    """A model and an engine that are ready."""

    model: ServedModel
    info: EngineInfo
    fingerprint: str

    def require(self, *tasks: str) -> None:
        """Raise ApiError `route_unsupported_by_model` unless the model does one of these tasks."""
        served = self.info.tasks
        if not set(tasks) & set(served):
            raise ApiError.of(
                "route_unsupported_by_model",
                f"this route needs a model that can {' or '.join(tasks)}; the served one can "
                f"{', '.join(served)}",
                hint="serve another model, or start the server with --task",
            )


class ServerContext:
    """Settings, the engine, and what was measured."""

    def __init__(
        self, settings: ServeSettings, engine: EngineClient, limits: Limits | None = None
    ) -> None:
        self.settings = settings
        self.engine = engine
        self.limits = limits if limits is not None else Limits()
        self.card = ModelCard(settings.served_names or (own_name(settings.model_source),))
        self.metrics = Metrics(self.card.name, aliases=settings.metrics_alias == "vllm")
        self.keys = KeyRing(settings.api_keys, self.metrics.note_auth_failure)
        self.lifecycle = Lifecycle(settings.drain_delay_s, settings.shutdown_timeout_s)
        self.secret = new_secret()
        self.logger = logging.getLogger("inferplane.server")
        self.tracing: Tracing | None = None
        """Where ended requests are told to; set before the first one."""
        self.state = State(settings.state, self.logger)
        self.tasks: set[asyncio.Task[None]] = set()
        """Work that outlives its request; ended with the server."""
        self.on_start: list[Callable[[], object]] = []
        """Called once the event loop runs."""
        self.gate: GatedRouter | None = None
        """The routes, once they are put together."""
        limits = self.limits
        self.fetcher = Fetcher(
            settings.allow_media_domains,
            most_bytes=limits.media_bytes,
            most_s=limits.media_fetch_s,
        )
        self.files = StoredFiles(self.state, limits.files, limits.files_bytes)
        self._model: asyncio.Task[ServedModel] | None = None
        self._grammars: GrammarCompiler | None = None

    def start(self, load: Callable[[ServeSettings], ServedModel] = load_served_model) -> None:
        """Begin to load the model's front-end part, beside the event loop."""

        def ready() -> ServedModel:
            model = load(self.settings)
            if model.pictures is not None:
                model.pictures.start()
            if model.hearing is not None:
                model.hearing.processor.start()
            return model

        self._model = asyncio.create_task(asyncio.to_thread(ready))
        for begin in self.on_start:
            begin()

    def inner_gate(self) -> GatedRouter:
        """The routes, for requests that come from inside."""
        assert self.gate is not None
        return self.gate

    async def model(self) -> ServedModel:
        """The front-end part; raises what loading it raised."""
        if self._model is None:
            raise EngineError("model_loading", "the server has not started")
        return await asyncio.shield(self._model)

    @property
    def loaded_model(self) -> ServedModel | None:
        """The front-end part if it is loaded."""
        task = self._model
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return task.result()

    def grammar_compiler(self, serving: Serving) -> GrammarCompiler:
        """Compiles constraints for the served model; its process starts with the first one."""
        if self._grammars is None:
            model = str(self.settings.launch.config.model)
            width = serving.info.vocab_size
            self._grammars = GrammarCompiler(model, width, serving.model.eos_ids)
        return self._grammars

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin work that outlives the request that asks for it."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def raise_load_failure(self) -> None:
        """Raise what loading the front-end part raised, if it did."""
        task = self._model
        if task is not None and task.done() and not task.cancelled():
            task.result()

    async def serving(self) -> Serving:
        """Model and engine, waiting for them up to `load_wait_s`.

        Raises ApiError `model_loading`, `draining` or `engine_dead`.
        """
        if self.lifecycle.refuses:
            raise ApiError(
                ApiError.of("draining", "the server is shutting down").problems,
                {"connection": "close"},
            )
        ready, info = self.loaded_model, self.engine.info
        if ready is None or info is None or self.engine.status.phase != "ready":
            ready, info = await self._wait()
        self.metrics.engine_info = info
        return Serving(ready, info, _fingerprint(self.card.name, info))

    async def _wait(self) -> tuple[ServedModel, EngineInfo]:
        wait_s = self.settings.load_wait_s
        try:
            async with asyncio.timeout(wait_s):
                model = await self.model()
                return model, await self.engine.wait_ready(wait_s)
        except (TimeoutError, EngineError) as error:
            if isinstance(error, EngineError) and error.code != "model_loading":
                raise
            raise self._loading() from None
        except InferplaneError:
            raise ApiError.of("engine_dead", "the model could not be loaded") from None

    def _loading(self) -> ApiError:
        status = self.engine.status
        progress = f" ({status.done} of {status.total})" if status.total else ""
        error = ApiError(
            (
                Problem(
                    "model_loading",
                    f"the model is still loading: {status.phase}{progress}",
                    hint="GET /startupz says how far; --load-wait sets how long requests wait",
                ),
            )
        )
        error.retry_after_s = self.eta_s() or 5.0
        return error

    def has_started(self) -> bool:
        """Whether start-up is over; stays so."""
        lifecycle = self.lifecycle
        ready = self.engine.status.phase == "ready" and self.loaded_model is not None
        if lifecycle.ready_since is None and ready:
            lifecycle.ready_since = time.monotonic()
        return lifecycle.ready_since is not None

    def is_ready(self) -> bool:
        """Whether requests are served and should come here."""
        return not self.unready_because()

    def unready_because(self) -> str:
        """The first reason not to send requests here; "" = none."""
        if self.lifecycle.draining:
            return "draining"
        if reason := self.unhealthy_because():
            return reason
        waiting, most = self.metrics.engine_stats.waiting, self._high_water
        return f"queue: {waiting} waiting" if waiting >= most else ""

    def unhealthy_because(self) -> str:
        """The first reason why nothing can be generated; "" = none."""
        status = self.engine.status
        if status.phase == "failed":
            return "failed"
        if self.loaded_model is None or status.phase not in ("ready", "draining"):
            return f"loading: {status.phase}"  # again, while workers are replaced
        return f"stalled: no step for {status.tick_age_s:.0f} s" if status.stalled else ""

    @property
    def _high_water(self) -> int:
        """Queue length from which others should be asked first: nine tenths of the queue."""
        scheduler = self.settings.launch.scheduler
        most = scheduler.max_waiting or 4 * self.settings.launch.config.max_num_seqs
        return max(1, most * 9 // 10)

    def eta_s(self) -> float | None:
        """Seconds that the current phase may still take, by its own progress."""
        status = self.engine.status
        if not status.total or not status.done:
            return None
        spent = time.monotonic() - status.since
        return spent * (status.total - status.done) / status.done

    def note_failure(self, request_id: str, error: BaseException) -> None:
        """Log what nobody expected; the client sees only the request's id."""
        self.logger.error("failure in request %s", request_id, exc_info=error)

    async def close(self) -> None:
        """Give back what the front end holds."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        if self._model is not None:
            self._model.cancel()
            await asyncio.gather(self._model, return_exceptions=True)
        if self.loaded_model is not None:
            self.loaded_model.close()
        if self._grammars is not None:
            self._grammars.close()
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)
        await asyncio.to_thread(self.state.close)


def _fingerprint(name: str, info: EngineInfo) -> str:
    told = "|".join((info.plugin_version, name, info.device, info.dtype))
    return "fp_" + sha256(told.encode()).hexdigest()[:12]
