"""Thousands of clients that leave at any moment: nothing runs on, nothing is held."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time

import pytest

REQUESTS = int(os.environ.get("RELIABILITY_STORM", "10000"))
HOWS = ("reset", "close", "half-close")
PLACES = ("head", "body", "queue", "answer", "answer", "end")


def body_of(rng) -> dict:
    short = rng.random() < 0.2
    return {
        "prompt": [rng.randrange(3, 400) for _ in range(rng.randint(1, 60))],
        "max_tokens": rng.randint(1, 4) if short else 300,
        "ignore_eos": True,
        "stream": rng.random() < 0.6,
        "n": rng.choice((1, 1, 1, 2, 3)),
    }


async def one_client(server, wire, rng) -> None:
    """Ask, and leave at a random byte of the request or of the answer."""
    data = wire.request_bytes("POST", "/v1/completions", body_of(rng))
    place, how = rng.choice(PLACES), rng.choice(HOWS)
    head = data.index(b"\r\n\r\n") + 4
    cut = {"head": rng.randrange(1, head), "body": rng.randrange(head, len(data))}
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    with contextlib.suppress(ConnectionError):
        writer.write(data[: cut.get(place, len(data))])
        await writer.drain()
        if place == "queue":
            await asyncio.sleep(rng.random() * 0.05)
        elif place == "answer":
            left = rng.randrange(1, 4000)
            while left > 0 and (part := await reader.read(left)):
                left -= len(part)
                if rng.random() < 0.2:
                    break
        elif place == "end":
            while (part := await reader.read(4096)) and b"[DONE]" not in part:
                if rng.random() < 0.01:
                    break
        wire.leave(writer, how)
        if how == "half-close":
            await reader.read()
    writer.close()


@pytest.mark.case("disconnect-storm")
@pytest.mark.case("zombie-stream")
@pytest.mark.case("abort-leak")
@pytest.mark.case("resource-shutdown")
def test_disconnect_storm(serve, wire, rng, record, full, until) -> None:
    count, at_once = (REQUESTS, 64) if full else (1000, 32)
    server = serve("--max-num-seqs", "16", "--max-waiting", "400", step_ms="1", check="0")
    asyncio.run(storm(server, wire, rng, record, full, until, count, at_once))


async def storm(server, wire, rng, record, full, until, count, at_once) -> None:
    golden = {"prompt": [5, 6, 7], "max_tokens": 20, "temperature": 0, "return_token_ids": True}
    _, _, before = await server.ask("POST", "/v1/completions", golden)
    await until(server.idle)
    descriptors = [process.num_fds() for process in server.family]
    began = time.monotonic()
    numbers = iter(range(count))

    async def clients() -> None:
        for _ in numbers:
            await one_client(server, wire, rng)

    await asyncio.gather(*(clients() for _ in range(at_once)))
    ended = time.monotonic()
    await until(server.idle)
    settled_s = time.monotonic() - ended
    first = await server.metrics()
    await asyncio.sleep(1.0 if full else 0.05)
    second = await server.metrics()
    zombies = second["generation_tokens_total"] - first["generation_tokens_total"]
    _, _, after = await server.ask("POST", "/v1/completions", golden)
    now = [process.num_fds() for process in server.family]
    record(
        requests=count,
        requests_per_s=round(count / (ended - began)),
        idle_after_s=round(settled_s, 3),
        blocks_held=second["kv_cache_usage_ratio"],
        zombie_tokens=zombies,
        generated_tokens=int(second["generation_tokens_total"]),
        sequences=int(second["requests_finished_total"]),
        descriptors=f"{sum(descriptors)} then {sum(now)}",
    )
    assert zombies == 0
    assert second["steps_total"] == first["steps_total"]
    assert json.loads(before)["choices"] == json.loads(after)["choices"]
    assert sum(now) <= sum(descriptors) + 2
    if full:
        assert settled_s <= 1.0
