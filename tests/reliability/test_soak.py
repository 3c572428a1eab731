"""Mixed load for a long time: memory, descriptors and speed stay where they were."""

from __future__ import annotations

import asyncio
import contextlib
import os

import psutil
import pytest

SECONDS = float(os.environ.get("RELIABILITY_SOAK_S", "3600"))


def memory_of(server) -> tuple[float, int, int]:
    """(MiB of private memory, descriptors, threads) of all processes."""
    mib, descriptors, threads = 0.0, 0, 0
    for process in server.family:
        with contextlib.suppress(psutil.NoSuchProcess):
            mib += process.memory_full_info().uss / 2**20
            descriptors += process.num_fds()
            threads += process.num_threads()
    return mib, descriptors, threads


async def one(server, wire, rng, counts: dict[str, int]) -> None:
    """A good request, a bad one, or one that is left in the middle."""
    what = rng.choices(("good", "left", "bad"), (93, 5, 2))[0]
    asked = {
        "prompt": [rng.randrange(3, 380) for _ in range(rng.randint(1, 100))],
        "max_tokens": rng.randint(1, 40),
        "stream": rng.random() < 0.5,
        "temperature": rng.choice((0, 0.8)),
        "n": rng.choice((1, 1, 1, 2)),
    }
    if what == "bad":
        asked[rng.choice(list(asked))] = rng.choice((-1, "x", [], 2**40, {}))
    if what == "left":
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(wire.request_bytes("POST", "/v1/completions", asked))
        await reader.read(rng.randrange(1, 400))
        wire.leave(writer, "reset")
        writer.close()
    else:
        status, _, _ = await server.ask("POST", "/v1/completions", asked)
        assert status in ((200, 429) if what == "good" else (200, 400)), (status, asked)
    counts[what] = counts.get(what, 0) + 1


@pytest.mark.case("soak")
@pytest.mark.case("host-memory-leak")
def test_soak(serve, wire, rng, record, full, until) -> None:
    server = serve("--max-num-seqs", "16", step_ms="1", check="0")
    asyncio.run(soak(server, wire, rng, record, SECONDS if full else 4.0, full, until))


async def soak(server, wire, rng, record, seconds, full, until) -> None:
    counts: dict[str, int] = {}
    over = False

    async def client() -> None:
        while not over:
            await one(server, wire, rng, counts)

    clients = [asyncio.create_task(client()) for _ in range(24)]
    await asyncio.sleep(seconds / 4)  # caches and pools fill
    first, begun = memory_of(server), sum(counts.values())
    await asyncio.sleep(seconds * 3 / 4)
    last, done = memory_of(server), sum(counts.values())
    over = True
    await asyncio.gather(*clients)
    await until(server.idle)
    slope = (last[0] - first[0]) * 1024 / max(1, done - begun)
    record(
        seconds=round(seconds),
        requests=done,
        kinds=dict(sorted(counts.items())),
        memory_mib=f"{first[0]:.1f} then {last[0]:.1f}",
        kib_per_request=round(slope, 4),
        descriptors=f"{first[1]} then {last[1]}",
        threads=f"{first[2]} then {last[2]}",
    )
    assert counts["good"] > 0 and counts["left"] > 0
    if full:
        assert slope <= 1.0
        assert last[2] <= first[2] + 2
