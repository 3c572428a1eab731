"""Ten times more requests than the engine can do: it goes on at full speed and says no quickly."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import pytest

BODY = {"prompt": [5, 6, 7, 8], "max_tokens": 20, "ignore_eos": True, "temperature": 0}


@dataclass
class Seen:
    """What clients saw."""

    good: list[float] = field(default_factory=list)
    """Moments at which an answer came."""
    refused_s: list[float] = field(default_factory=list)
    probe_s: list[float] = field(default_factory=list)
    without_retry: int = 0
    other: list[int] = field(default_factory=list)
    waiting: list[float] = field(default_factory=list)


def p99(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))] if values else 0.0


async def capacity(server, seconds: float, at_once: int) -> float:
    """Answers a second when exactly as many clients ask as fit."""
    until, done = time.monotonic() + seconds, 0

    async def client() -> None:
        nonlocal done
        while time.monotonic() < until:
            status, _, _ = await server.ask("POST", "/v1/completions", BODY)
            done += status == 200

    began = time.monotonic()
    await asyncio.gather(*(client() for _ in range(at_once)))
    return done / (time.monotonic() - began)


async def one_request(server, seen: Seen) -> None:
    began = time.monotonic()
    status, headers, _ = await server.ask("POST", "/v1/completions", BODY)
    if status == 200:
        seen.good.append(time.monotonic())
    elif status == 429:
        seen.refused_s.append(time.monotonic() - began)
        seen.without_retry += "retry-after" not in headers
    else:
        seen.other.append(status)


async def probes(server, seen: Seen) -> None:
    """A readiness probe ten times a second, and how long the queue is."""
    while True:
        began = time.monotonic()
        status, _, _ = await server.ask("GET", "/livez")
        assert status == 200
        seen.probe_s.append(time.monotonic() - began)
        seen.waiting.append((await server.metrics())["requests_waiting"])
        await asyncio.sleep(0.1)


@pytest.mark.case("overload")
@pytest.mark.case("unbounded-queue")
def test_overload(serve, rng, record, full, until) -> None:
    server = serve("--max-num-seqs", "16", "--max-waiting", "64", step_ms="20", check="0")
    asyncio.run(overload(server, rng, record, full, until))


async def overload(server, rng, record, full, until) -> None:
    able = await capacity(server, 10.0 if full else 1.0, 16)
    offered, seconds = 10 * able, 60.0 if full else 20.0
    seen = Seen()
    watching = asyncio.create_task(probes(server, seen))
    tasks: set[asyncio.Task[None]] = set()
    began, due = time.monotonic(), time.monotonic()
    while time.monotonic() - began < seconds:
        due += rng.expovariate(offered)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        task = asyncio.create_task(one_request(server, seen))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    asked_s = time.monotonic() - began
    good = sum(moment <= began + asked_s for moment in seen.good)
    await asyncio.gather(*tasks)
    over = time.monotonic()
    await until(server.idle)
    idle_s = time.monotonic() - over
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    total = len(seen.good) + len(seen.refused_s) + len(seen.other)
    figures = {
        "capacity_per_s": round(able, 1),
        "offered_per_s": round(total / asked_s, 1),
        "goodput_share": round(good / asked_s / able, 3),
        "refused": len(seen.refused_s),
        "refused_p99_ms": round(p99(seen.refused_s) * 1000, 1),
        "refused_without_retry_after": seen.without_retry,
        "probe_p99_ms": round(p99(seen.probe_s) * 1000, 1),
        "longest_queue": max(seen.waiting),
        "idle_after_s": round(idle_s, 2),
        "other_statuses": sorted(set(seen.other)),
    }
    record(**figures)
    assert seen.refused_s and not seen.without_retry and not seen.other
    assert max(seen.waiting) <= 64
    if full:
        assert figures["goodput_share"] >= 0.9
        assert figures["refused_p99_ms"] <= 50
        assert figures["probe_p99_ms"] <= 100
        assert idle_s <= 5
