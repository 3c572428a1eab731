"""The asyncio side of an engine: starts it, submits to it, hands out streams, survives it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future

import msgspec

from inferplane.engine.messages import (
    Abort,
    Admitted,
    Alive,
    EngineInfo,
    EngineStats,
    FromEngine,
    GetStats,
    Outputs,
    Rejected,
    ResetPrefixCache,
    SequenceOutput,
    Stats,
    Submit,
    ToEngine,
)
from inferplane.engine.status import EngineStatus
from inferplane.engine.streams import GenerationStream
from inferplane.engine.supervisor import Supervisor
from inferplane.engine.watchdog import Patience
from inferplane.errors import EngineError, RequestError
from inferplane.launch import LaunchPlan, LaunchSettings
from inferplane.media import MediaItem, check_media_room
from inferplane.planner import run_planner
from inferplane.request import FinishReason, Request
from inferplane.sampling_params import SamplingParams

__all__ = ["EngineClient", "EngineStatus", "GenerationStream", "Patience"]

_ENGINE_CODES = frozenset(("model_loading", "draining", "engine_restarting", "engine_dead"))


class EngineClient:
    """One engine as the front end sees it. After `launch`, everything runs in one event loop.

    It holds no state of requests but their open streams, weakly: a stream nobody holds any more
    aborts itself.
    """

    def __init__(self, planning: Future[LaunchPlan], patience: Patience) -> None:
        """Use `launch` or `with_plan`."""
        self._supervisor = Supervisor(planning, self._receive, self._lost, patience)
        self._streams: dict[str, weakref.ref[GenerationStream]] = {}
        self._admissions: dict[str, asyncio.Future[Rejected | None]] = {}
        self._reports: dict[int, asyncio.Future[EngineStats]] = {}
        self._numbers = itertools.count(1)
        self._tasks: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def launch(cls, settings: LaunchSettings) -> EngineClient:
        """Begin to plan in the background and return at once; `start` does the rest."""
        planning: Future[LaunchPlan] = Future()

        planning.set_running_or_notify_cancel()  # whoever stops waiting cannot cancel it

        def plan() -> None:
            try:
                planning.set_result(run_planner(settings))
            except BaseException as error:
                planning.set_exception(error)

        threading.Thread(target=plan, name="planner", daemon=True).start()
        return cls(planning, Patience())

    @classmethod
    def with_plan(cls, plan: LaunchPlan, patience: Patience | None = None) -> EngineClient:
        """For a plan that was made before."""
        planning: Future[LaunchPlan] = Future()
        planning.set_result(plan)
        return cls(planning, patience or Patience())

    @property
    def status(self) -> EngineStatus:
        """Where the engine stands now."""
        return self._supervisor.status

    @property
    def info(self) -> EngineInfo | None:
        """What it is, once it is ready; None while it restarts."""
        return self._supervisor.info

    @property
    def plan(self) -> LaunchPlan | None:
        """What was decided, once it was."""
        return self._supervisor.plan

    @property
    def pid(self) -> int:
        """Of the engine process; 0 while there is none."""
        child = self._supervisor.child
        return 0 if child is None else child.pid

    async def start(self) -> None:
        """Begin to start and watch the engine in the running loop; returns at once."""
        self._loop = asyncio.get_running_loop()
        self._tasks = [
            self._loop.create_task(self._supervisor.run()),
            self._loop.create_task(self._supervisor.watch(self._tell_alive)),
        ]

    async def wait_ready(self, timeout_s: float | None = None) -> EngineInfo:
        """What the engine is, as soon as it takes requests.

        Raises what made it fail (ConfigError, EngineError, …), or EngineError `model_loading` when
        the time is over.
        """
        try:
            await asyncio.wait_for(self._supervisor.settled.wait(), timeout_s)
        except TimeoutError:
            raise self._not_ready() from None
        if self.info is None or self.status.phase != "ready":
            raise self.status.failure or self._not_ready()
        return self.info

    async def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        request_id: str = "",
        eos_ids: Sequence[int] = (),
        priority: int = 0,
        cache_domain: bytes = b"",
        deadline_s: float | None = None,
        items: tuple[MediaItem, ...] = (),
    ) -> GenerationStream:
        """Queue `params.n` sequences of one prompt and wait until the engine took all of them.

        Sequence i draws with seed + i. Raises RequestError (`capacity_exceeded`, `queue_full`, …)
        or EngineError (`model_loading`, `draining`, `engine_restarting`, `engine_dead`).
        """
        info = self.info
        if info is None or self.status.phase != "ready":
            raise self._not_ready()
        check_media_room(items)
        request_id = self._unique(request_id)
        request = Request(
            request_id=request_id,
            prompt_ids=tuple(prompt_ids),
            sampling=_complete(params, len(prompt_ids), info.max_model_len),
            eos_ids=tuple(eos_ids),
            priority=priority,
            cache_domain=cache_domain,
            deadline_s=deadline_s,
            items=items,
        )
        return await self._begin(request, _children(request, params.n))

    async def pool(
        self,
        prompt_ids: Sequence[int],
        *,
        request_id: str = "",
        priority: int = 0,
        cache_domain: bytes = b"",
        deadline_s: float | None = None,
        second_start: int = 0,
    ) -> GenerationStream:
        """Queue one whole text, whose only output has its `embedding`; raises what `submit` does.

        `second_start` is where the second text of a pair begins, 0 for one text.
        """
        if self.info is None or self.status.phase != "ready":
            raise self._not_ready()
        request = Request(
            request_id=self._unique(request_id),
            prompt_ids=tuple(prompt_ids),
            sampling=SamplingParams(seed=0, max_tokens=1),
            priority=priority,
            cache_domain=cache_domain,
            deadline_s=deadline_s,
            pooling=True,
            second_start=second_start,
        )
        return await self._begin(request, [request])

    async def _begin(self, request: Request, children: Sequence[Request]) -> GenerationStream:
        stream = GenerationStream(
            request.request_id,
            [child.request_id for child in children],
            self._abort,
            self._abort_later,
        )
        try:
            await self._admit(children, stream)
        except BaseException:
            stream.abort()
            raise
        return stream

    async def stats(self) -> EngineStats:
        """Gauges and counters; waits for the step under way. Raises EngineError when not ready."""
        if self.status.phase not in ("ready", "draining") or self._supervisor.child is None:
            raise self._not_ready()
        number = next(self._numbers)
        report: asyncio.Future[EngineStats] = asyncio.get_running_loop().create_future()
        self._reports[number] = report
        self._send(GetStats(number))
        try:
            return await report
        finally:
            self._reports.pop(number, None)

    def reset_prefix_cache(self) -> None:
        """Ask the engine to forget cached prefixes that nobody uses."""
        self._send(ResetPrefixCache())

    async def close(self, drain: bool = False, timeout_s: float = 45.0) -> None:
        """End the engine; with `drain`, running requests may finish within `timeout_s`.

        Streams that are left end with error `draining`. May be called twice.
        """
        if not self._tasks:
            return
        tasks, self._tasks = self._tasks, []
        await self._supervisor.close(drain, timeout_s)
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._lost("draining", "the engine was shut down")

    async def _admit(self, children: Sequence[Request], stream: GenerationStream) -> None:
        loop = asyncio.get_running_loop()
        answers = []
        for child in children:
            answer = self._admissions[child.request_id] = loop.create_future()
            answers.append(answer)
            self._streams[child.request_id] = weakref.ref(stream)
            self._send(Submit(child))
        try:
            for answer in answers:
                rejected = await answer
                if rejected is not None:
                    raise _refusal(rejected)
        finally:
            for child in children:
                self._admissions.pop(child.request_id, None)

    def _receive(self, message: FromEngine) -> None:
        if isinstance(message, Outputs):
            for output in message.outputs:
                self._deliver(output)
        elif isinstance(message, Admitted):
            self._answer(message.request_id, None)
        elif isinstance(message, Rejected):
            self._answer(message.request_id, message)
        elif isinstance(message, Stats):
            report = self._reports.get(message.number)
            if report is not None and not report.done():
                report.set_result(message.stats)

    def _deliver(self, output: SequenceOutput) -> None:
        held = self._streams.get(output.request_id)
        stream = held() if held is not None else None
        if output.finish is not None:
            self._streams.pop(output.request_id, None)
        if stream is not None:
            stream.deliver(output)

    def _answer(self, request_id: str, rejected: Rejected | None) -> None:
        answer = self._admissions.get(request_id)
        if answer is not None and not answer.done():
            answer.set_result(rejected)

    def _lost(self, code: str, message: str) -> None:
        """The engine is gone and what it knew of requests with it."""
        for request_id, answer in self._admissions.items():
            if not answer.done():
                answer.set_result(Rejected(request_id, code, message))
        for report in self._reports.values():
            if not report.done():
                report.set_exception(EngineError(code, message))
        for request_id in list(self._streams):
            self._deliver(SequenceOutput(request_id, finish=FinishReason.ERROR, error=code))

    def _abort(self, ids: tuple[str, ...], reason: FinishReason) -> None:
        for request_id in ids:
            self._streams.pop(request_id, None)
        self._send(Abort(ids, reason))

    def _abort_later(self, ids: tuple[str, ...]) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and the engine with it
                self._loop.call_soon_threadsafe(self._abort, ids, FinishReason.ABORT)

    def _send(self, message: ToEngine) -> None:
        if self._supervisor.child is not None:
            self._supervisor.child.send(message)

    def _tell_alive(self) -> None:
        self._send(Alive(tuple(self._streams)))

    def _unique(self, request_id: str) -> str:
        number = next(self._numbers)
        if not request_id.isascii() or not request_id:
            return f"request-{number}"
        taken = request_id in self._streams or f"{request_id}.0" in self._streams
        return f"{request_id}~{number}" if taken else request_id

    def _not_ready(self) -> EngineError:
        status = self.status
        if status.phase == "failed":
            return EngineError("engine_dead", f"the engine is dead: {status.detail}")
        if status.phase == "draining" or self._supervisor.closing:
            return EngineError("draining", "the server is going down")
        if status.restarts:
            return EngineError("engine_restarting", status.detail or "the engine restarts")
        return EngineError("model_loading", f"the model is loading: {status.phase}")


def _complete(params: SamplingParams, prompt_tokens: int, context: int) -> SamplingParams:
    """Parameters with everything the engine wants set."""
    seed = secrets.randbits(63) if params.seed is None else params.seed
    left = max(1, context - prompt_tokens)
    most = left if params.max_tokens is None else params.max_tokens
    return msgspec.structs.replace(params, n=1, seed=seed, max_tokens=most)


def _children(request: Request, n: int) -> list[Request]:
    if n == 1:
        return [request]
    sampling, replace = request.sampling, msgspec.structs.replace
    return [
        replace(
            request,
            request_id=f"{request.request_id}.{i}",
            sampling=replace(sampling, seed=(sampling.seed or 0) + i),
        )
        for i in range(n)
    ]


def _refusal(rejected: Rejected) -> EngineError | RequestError:
    if rejected.code in _ENGINE_CODES:
        return EngineError(rejected.code, rejected.message)
    return RequestError(rejected.code, rejected.message, rejected.param)
