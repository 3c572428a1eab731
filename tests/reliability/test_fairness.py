"""One key asks twenty times what the engine can do; nine that ask little hardly notice."""

from __future__ import annotations

import asyncio
import time

import pytest

BODY = {"prompt": [5, 6, 7, 8], "max_tokens": 20, "ignore_eos": True, "temperature": 0}
AT_ONCE = 16
MODEST = range(1, 10)


async def answered(server, key: int) -> tuple[int, float]:
    """Status of one request, and the seconds it took."""
    began = time.monotonic()
    carrier = f"authorization: Bearer k{key}\r\n"
    status, _, _ = await server.ask("POST", "/v1/completions", BODY, carrier)
    return status, time.monotonic() - began


async def at_random(server, key: int, rate: float, seconds: float, rng) -> list[tuple[int, float]]:
    """Requests of one key as a Poisson process, whether or not earlier ones have ended."""
    tasks: list[asyncio.Task[tuple[int, float]]] = []
    due, over = time.monotonic(), time.monotonic() + seconds
    while (due := due + rng.expovariate(rate)) < over:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.create_task(answered(server, key)))
    return await asyncio.gather(*tasks)


async def capacity(server, seconds: float) -> float:
    """Answers a second when as many clients of one key ask as run at once."""
    over, done = time.monotonic() + seconds, 0

    async def client() -> None:
        nonlocal done
        while time.monotonic() < over:
            status, _ = await answered(server, 0)
            done += status == 200

    began = time.monotonic()
    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return done / (time.monotonic() - began)


async def modest(server, able: float, seconds: float, rng) -> tuple[float, float, int]:
    """(share lost, p99 in seconds, requests) of nine keys that ask a twentieth each."""
    seen = await asyncio.gather(
        *(at_random(server, key, able / 20, seconds, rng) for key in MODEST)
    )
    every = [one for of_key in seen for one in of_key]
    took = sorted(seconds for status, seconds in every if status == 200)
    lost = sum(status != 200 for status, _ in every) / len(every)
    return lost, took[min(len(took) - 1, int(len(took) * 0.99))], len(every)


@pytest.mark.case("fairness")
def test_fairness(serve, key_file, rng, record, full, until) -> None:
    server = serve(
        "--max-num-seqs",
        str(AT_ONCE),
        "--max-waiting",
        "64",
        "--api-key-file",
        str(key_file),
        step_ms="40",
        check="0",
    )
    asyncio.run(fairness(server, rng, record, full, until))


async def fairness(server, rng, record, full, until) -> None:
    seconds = 60.0 if full else 2.0
    able = await capacity(server, 10.0 if full else 1.0)
    _, alone_s, _ = await modest(server, able, seconds / 2, rng)
    flood = asyncio.create_task(at_random(server, 0, 20 * able, seconds, rng))
    lost, crowded_s, asked = await modest(server, able, seconds, rng)
    refused = [took for status, took in await flood if status == 429]
    await until(server.idle)
    record(
        capacity_per_s=round(able, 1),
        modest_requests=asked,
        modest_lost_share=round(lost, 4),
        modest_p99_s=round(crowded_s, 3),
        modest_p99_alone_s=round(alone_s, 3),
        greedy_refused=len(refused),
    )
    assert refused, "else nobody was greedy"
    assert lost <= 0.01
    if full:
        assert crowded_s <= 2 * alone_s
