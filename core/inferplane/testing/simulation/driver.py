"""What happens next: arrivals, faults and the engine's own turn, drawn from one seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf, log
from random import Random

from inferplane.request import FinishReason
from inferplane.scheduling.sequence import SequenceState
from inferplane.testing.simulation import actions as act
from inferplane.testing.simulation.knobs import Knobs
from inferplane.testing.simulation.world import World

__all__ = ["Driver"]

_HELD = (
    SequenceState.WAITING_GRAMMAR,
    SequenceState.WAITING_REMOTE,
    SequenceState.WAITING_INPUT,
)
_WHEN_FULL = 0.1
"""Of those that would arrive, how many do while the queue is full: each is refused alike."""
_STEP, _ANSWER = act.Step(), act.Answer()


class Driver:
    """Draws actions; each fault has its next turn drawn ahead, so quiet turns cost nothing."""

    def __init__(self, knobs: Knobs, rng: Random, world: World) -> None:
        self.knobs = knobs
        self.rng = rng
        self.world = world
        self._turn = 0
        self._arrivals = 0
        self._echoes: list[tuple[int, act.Add]] = []
        """Requests for the same as another one, a little later."""
        faults = knobs.faults
        self._makers: list[tuple[float, Callable[[], act.Action | None]]] = [
            (faults.abort, lambda: act.Finish(self._numbers())),
            (faults.front_end_stop, lambda: act.Finish(self._numbers(), FinishReason.STOP)),
            (faults.host_failure, self._host_failure),
            (faults.hold, lambda: act.Hold(rng.randrange(64), rng.choice(_HELD))),
            (faults.hold / 2, act.ReadyAll),
            (faults.pause, lambda: act.Pause(rng.choice(("keep", "drain", "abort")))),
            (faults.pause * 2, lambda: act.Pause(None)),
            (faults.reset, lambda: act.Reset(rng.random() < 0.3)),
            (faults.worker_death, act.ReplaceWorker),
            (faults.clock_jump, lambda: act.Tick(rng.choice((3600.0, -3600.0)))),
            (faults.double_answer, act.AnswerTwice),
            (faults.failed_row, lambda: self._fail("failed")),
            (faults.silent_nan, lambda: self._fail("silent")),
            (faults.failed_allocation, lambda: self._fail("refused")),
        ]
        self._step_faults: dict[str, int] = {}
        self._tick = act.Tick(knobs.step_seconds)
        self._due = [self._draw_gap(rate) for rate, _ in self._makers]
        self._soonest = min(self._due)
        self._bits = rng.getrandbits

    def peace(self) -> Iterator[act.Action]:
        """One turn of an undisturbed engine."""
        before = self.world.steps
        yield _STEP
        yield from self._answer(before)

    def turn(self) -> Iterator[act.Action]:
        """Arrivals, faults, one step, perhaps a result."""
        self._turn += 1
        yield self._tick
        yield from self._arrive()
        if self._turn >= self._soonest:
            yield from self._disturb()
        before = self.world.steps
        yield self._step()
        yield from self._answer(before)

    def _answer(self, before: int) -> Iterator[act.Action]:
        """Take in a result as the engine does: when enough are out, or nothing new was planned."""
        waiting = len(self.world.in_flight)
        if waiting > self.knobs.limits.async_steps or (waiting and self.world.steps == before):
            yield _ANSWER

    def _step(self) -> act.Step:
        faults = self._step_faults
        if not faults:
            return _STEP
        self._step_faults = {}
        return act.Step(
            (faults["failed"],) if "failed" in faults else (),
            (faults["silent"],) if "silent" in faults else (),
            1 + faults["refused"] % 3 if "refused" in faults else 0,
        )

    def _disturb(self) -> Iterator[act.Action]:
        """Everything that users, operators and hardware do at the worst moment."""
        for position, (rate, make) in enumerate(self._makers):
            if self._due[position] > self._turn:
                continue
            self._due[position] = self._turn + self._draw_gap(rate)
            action = make()
            if action is not None:
                yield action
        self._soonest = min(self._due)

    def _draw_gap(self, rate: float) -> float:
        """Turns until something of that chance per turn happens."""
        if rate <= 0:
            return inf
        return 1 + int(log(1.0 - self.rng.random()) / log(1.0 - min(rate, 0.999)))

    def _below(self, end: int) -> int:
        """`randrange(end)`, the same numbers in half the time."""
        size = end.bit_length()
        drawn = self._bits(size)
        while drawn >= end:
            drawn = self._bits(size)
        return drawn

    def _fail(self, kind: str) -> None:
        self._step_faults[kind] = self.rng.randrange(64)

    def _host_failure(self) -> act.Action:
        return act.Finish(self._numbers(), FinishReason.ERROR, "internal_error")

    def _numbers(self) -> tuple[int, ...]:
        return tuple(self.rng.randrange(1000) for _ in range(self.rng.choice((1, 1, 1, 2, 5))))

    def _arrive(self) -> Iterator[act.Action]:
        """New requests; at least one when there is nothing else to do."""
        rng, left = self.rng, self.knobs.arrival
        if self.world.is_full:
            left *= _WHEN_FULL
        if not self.world.scheduler.sequences:
            left = max(left, 1.0)
        while left > 0 and rng.random() < left:
            request = self._request()
            yield request
            copies = rng.randint(1, self.knobs.copies) if rng.random() < 0.6 else 1
            for number in range(1, copies):
                echo = request.again(f"{request.name}.{number}")
                self._echoes.append((self._turn + rng.choice((0, 0, 1, 2, 4)), echo))
            left -= copies
        if self._echoes:
            yield from (echo for turn, echo in self._echoes if turn <= self._turn)
            self._echoes = [echo for echo in self._echoes if echo[0] > self._turn]

    def _request(self) -> act.Add:
        rng, knobs = self.rng, self.knobs
        self._arrivals += 1
        length = 1 + int(rng.expovariate(1 / knobs.mean_prompt))
        odd = rng.random()
        if odd < 0.01:
            length = 4 * knobs.num_blocks * knobs.block_size
        elif odd < 0.95:
            length = min(length, knobs.config.max_model_len - 1)
        shared = 0
        if knobs.documents and rng.random() < 0.7:
            shared = min(400, rng.randrange(length + 1) if rng.random() < 0.3 else length)
        return act.Add(
            name=f"r{self._arrivals}",
            document=self._below(8),
            shared=shared,
            own=length - shared,
            seed=self._below(1 << 30) if rng.random() < 0.8 else self._below(4),
            max_tokens=1 + int(rng.expovariate(1 / knobs.mean_output)),
            priority=self._below(3),
            tenant=self._below(knobs.tenants),
            deadline_s=rng.choice((0.05, 0.5, 5.0)) if knobs.deadlines else None,
            pooling=rng.random() < 0.03,
            penalised=rng.random() < 0.1,
            prompt_logprobs=rng.random() < 0.05,
        )
