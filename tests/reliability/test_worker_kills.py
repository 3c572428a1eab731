"""Workers killed under load: noticed at once, and every stream goes on with the same tokens."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time

import psutil
import pytest

from inferplane.testing.null import null_tokens
from inferplane.testing.tiny_tokenizer import VOCAB_SIZE

STREAMS = 12
LENGTH = 250
TYPED = {"engine_restarting", "engine_poisoned_request", "engine_dead"}


def worker_of(server) -> psutil.Process | None:
    """The process that runs the device, if it is there."""
    for process in server.family:
        try:
            if "inferplane.execution.worker" in " ".join(process.cmdline()):
                return process
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return None


async def one_stream(server, prompt: list[int]) -> str:
    """ "same" for every token of a run without deaths, else the error's code or what is wrong."""
    body = {
        "prompt": prompt,
        "max_tokens": LENGTH,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "return_token_ids": True,
    }
    _, _, text = await server.ask("POST", "/v1/completions", body)
    events = [e.removeprefix("data: ") for e in text.decode().split("\n\n") if e.startswith("data")]
    if not events or events[-1] != "[DONE]":
        return "no end mark"
    tokens: list[int] = []
    finish = None
    for event in map(json.loads, events[:-1]):
        if "error" in event:
            return str(event["error"]["code"])
        for choice in event["choices"]:
            tokens += choice.get("token_ids") or []
            finish = choice["finish_reason"] or finish
    if finish != "length" or len(tokens) != LENGTH:
        return f"cut off as {finish} after {len(tokens)}"
    return "same" if tokens == null_tokens(prompt, LENGTH, VOCAB_SIZE) else "other tokens"


async def detected_s(server, killed_at: float) -> float:
    """Seconds from the kill until the readiness probe says so."""
    while True:
        status, _, _ = await server.ask("GET", "/readyz")
        if status == 503:
            return time.monotonic() - killed_at
        assert time.monotonic() - killed_at < 30
        await asyncio.sleep(0.01)


async def one_round(server, rng, kills: int) -> tuple[list[str], list[float]]:
    """Streams without a pause while workers are killed at random moments."""
    outcomes: list[str] = []
    seconds: list[float] = []
    over = False

    async def client(number: int) -> None:
        asked = 0
        while not over or not asked:
            asked += 1
            outcomes.append(await one_stream(server, [3 + number, 7, 3 + asked % 300]))

    clients = [asyncio.create_task(client(number)) for number in range(STREAMS)]
    for _ in range(kills):
        await asyncio.sleep(0.2 + rng.random() * 0.4)
        while (victim := worker_of(server)) is None:
            await asyncio.sleep(0.01)
        os.kill(victim.pid, signal.SIGKILL)
        seconds.append(await detected_s(server, time.monotonic()))
        while (await server.ask("GET", "/readyz"))[0] != 200:
            await asyncio.sleep(0.02)
    over = True
    await asyncio.gather(*clients)
    return outcomes, seconds


@pytest.mark.case("worker-death")
@pytest.mark.case("killed-engine")
def test_worker_kills(serve, rng, record, full, until) -> None:
    rounds, kills = (25, 4) if full else (2, 3)
    outcomes: list[str] = []
    seconds: list[float] = []
    for _ in range(rounds):  # a server gives up after five deaths within ten minutes
        server = serve(
            "--max-num-seqs", "16", "--drain-delay", "0", step_ms="2", placement="worker"
        )
        seen, took = asyncio.run(one_round(server, rng, kills))
        outcomes += seen
        seconds += took
        asyncio.run(settled(server, until))
        server.stop()
    wrong = sorted({o for o in outcomes if o != "same" and o not in TYPED})
    record(
        kills=len(seconds),
        streams=len(outcomes),
        same_tokens=outcomes.count("same"),
        typed_errors=sum(o in TYPED for o in outcomes),
        wrong=wrong,
        detected_max_s=round(max(seconds), 3),
    )
    assert not wrong
    assert outcomes.count("same") >= 0.99 * len(outcomes)
    if full:
        assert max(seconds) <= 1.0


async def settled(server, until) -> None:
    await until(server.idle)
