"""Processes that die, stop or break while requests run. Every stream ends, nothing is left over."""

import asyncio
import os
import signal
import subprocess
import sys

import psutil
import pytest

from inferplane.engine.client import EngineClient, Patience
from inferplane.errors import EngineError
from inferplane.request import FinishReason
from inferplane.sampling_params import SamplingParams
from inferplane.testing.null import null_tokens
from inferplane.testing.null_engine import null_plan

pytestmark = pytest.mark.asyncio

LONG = SamplingParams(temperature=0.0, max_tokens=400)
SHORT = SamplingParams(temperature=0.0, max_tokens=30)
SLOW = {"step_ms": "1"}
WORKER = {"placement": "worker", "step_ms": "1"}


def worker_pids(engine_pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(engine_pid).children()]


async def collect(stream) -> tuple[list[int], FinishReason | None, str]:
    made: list[int] = []
    finish, error = None, ""
    async for _, output in stream:
        made += output.token_ids
        finish, error = output.finish or finish, output.error or error
    return made, finish, error


@pytest.mark.case("killed-engine")
async def test_a_killed_engine_ends_its_streams_and_a_new_one_serves(launch) -> None:
    async with launch(null_plan(options=SLOW)) as client:
        streams = [await client.submit((number,), LONG) for number in range(3)]
        first = client.pid
        os.kill(first, signal.SIGKILL)
        for stream in streams:
            made, finish, error = await collect(stream)
            assert (finish, error) == (FinishReason.ERROR, "engine_restarting")
            assert len(made) < 400
        with pytest.raises(EngineError) as refused:
            await client.submit((1,), SHORT)
        assert refused.value.code == "engine_restarting"
        await client.wait_ready()
        assert client.pid != first and client.status.restarts == 1
        assert (await collect(await client.submit((5,), SHORT)))[0] == null_tokens((5,), 30, 1000)


async def test_an_engine_that_dies_while_loading_is_not_started_again() -> None:
    client = EngineClient.with_plan(null_plan(options={"load_ms": "3600000"}))
    await client.start()
    while not client.pid:
        await asyncio.sleep(0)
    os.kill(client.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match="signal 9"):
        await client.wait_ready()
    assert client.status.phase == "failed" and client.status.exit_code == 7
    await client.close()


@pytest.mark.parametrize("trouble", ["crash_token", "bug_token", "kill_token"])
async def test_trouble_inside_an_inline_step_restarts_the_engine(launch, trouble) -> None:
    async with launch(null_plan(options={**SLOW, trouble: "999"})) as client:
        good = await client.submit((1,), LONG)
        bad = await client.submit((1, 999), LONG)
        for stream in (good, bad):
            assert (await collect(stream))[1:] == (FinishReason.ERROR, "engine_restarting")
        await client.wait_ready()
        assert (await collect(await client.submit((1,), SHORT)))[0] == null_tokens((1,), 30, 1000)


async def test_an_engine_that_keeps_dying_is_given_up(launch) -> None:
    async with launch(null_plan(options={"crash_token": "999"})) as client:
        codes = []
        while client.status.phase != "failed":
            stream = await client.submit((999,), SHORT)
            codes.append((await collect(stream))[2])
            await asyncio.wait((asyncio.ensure_future(client.wait_ready()),))
        assert codes == ["engine_restarting"] * 4 + ["engine_dead"]
        assert client.status.exit_code == 7
        with pytest.raises(EngineError, match="died 5 times"):
            await client.wait_ready()


@pytest.mark.case("silent-hang")
@pytest.mark.case("killed-engine")
async def test_a_stopped_engine_shows_as_stalled_and_is_replaced(launch) -> None:
    async with launch(null_plan(options=SLOW), Patience(stalled_s=0.5)) as client:
        stream = await client.submit((1,), LONG)
        await anext(stream)
        first = client.pid
        os.kill(first, signal.SIGSTOP)
        while not client.status.stalled:
            await asyncio.sleep(0)
        assert client.status.tick_age_s > 0.5
        assert (await collect(stream))[1:] == (FinishReason.ERROR, "engine_restarting")
        await client.wait_ready()
        assert client.pid != first


@pytest.mark.case("silent-hang")
async def test_a_step_without_end_is_given_up_in_the_end(launch) -> None:
    plan = null_plan(options={"hang_token": "999"})
    async with launch(plan, Patience(stalled_s=0.2, hopeless_s=1.0)) as client:
        stream = await client.submit((999,), SHORT)
        assert (await collect(stream))[1:] == (FinishReason.ERROR, "engine_restarting")
        await client.wait_ready()
        assert (await collect(await client.submit((5,), SHORT)))[0] == null_tokens((5,), 30, 1000)


async def test_an_idle_engine_is_not_stalled(launch) -> None:
    async with launch(null_plan(), Patience(stalled_s=3.0)) as client:
        ages = set()
        while len(ages) < 3:  # the watch looks once a second
            ages.add(client.status.tick_age_s)
            await asyncio.sleep(0)
        assert not client.status.stalled


# ── workers ──


@pytest.mark.case("worker-death")
async def test_requests_outlive_their_worker_with_the_same_tokens(launch) -> None:
    async with launch(null_plan(options={**WORKER, "processes": "2"})) as client:
        streams = [await client.submit((number, 9), LONG) for number in range(4)]
        await anext(streams[0])
        (_, victim) = sorted(worker_pids(client.pid))
        os.kill(victim, signal.SIGKILL)
        for number, stream in enumerate(streams):
            made, finish, error = await collect(stream)
            assert (finish, error) == (FinishReason.LENGTH, "")
            expected = null_tokens((number, 9), 400, 1000)
            assert made == expected[-len(made) :] and len(made) >= 390
        assert client.status.restarts == 0
        stats = await client.stats()
        assert stats.blocks_free == stats.blocks_total


async def test_a_worker_that_dies_idle_is_replaced_before_it_is_needed(launch) -> None:
    async with launch(null_plan(options=WORKER)) as client:
        (victim,) = worker_pids(client.pid)
        os.kill(victim, signal.SIGKILL)
        while client.status.phase == "ready":
            await asyncio.sleep(0)
        await client.wait_ready()
        assert worker_pids(client.pid) != [victim]
        assert (await collect(await client.submit((1,), SHORT)))[0] == null_tokens((1,), 30, 1000)


@pytest.mark.case("poison-pill")
@pytest.mark.parametrize("trouble", ["crash_token", "bug_token", "kill_token"])
async def test_a_poisoned_request_is_found_and_the_others_finish(launch, trouble) -> None:
    plan = null_plan(options={**WORKER, trouble: "999"}, max_num_seqs=16)
    async with launch(plan) as client:
        good = [await client.submit((number, 3), SHORT) for number in range(12)]
        bad = await client.submit((3, 999), SHORT)
        for number, stream in enumerate(good):
            made, finish, error = await collect(stream)
            assert (finish, error) == (FinishReason.LENGTH, "")
            assert made == null_tokens((number, 3), 30, 1000)
        assert (await collect(bad))[1:] == (FinishReason.ERROR, "engine_poisoned_request")
        assert client.status.phase == "ready" and client.status.restarts == 0


async def test_workers_that_keep_dying_end_the_engine_for_good(launch) -> None:
    async with launch(null_plan(options={**WORKER, "crash_token": "999"})) as client:
        codes = []
        while client.status.phase != "failed":
            stream = await client.submit((999,), SHORT)
            codes.append((await collect(stream))[2])
            await asyncio.wait((asyncio.ensure_future(client.wait_ready()),))
        assert codes == ["engine_poisoned_request"] * 2 + ["engine_dead"]
        assert client.status.exit_code == 7


# ── parents ──

PARENT = """
import asyncio
from inferplane.engine.client import EngineClient
from inferplane.sampling_params import SamplingParams
from inferplane.testing.null_engine import null_plan

async def main():
    client = EngineClient.with_plan(null_plan(options={"placement": "worker", "processes": "2"}))
    await client.start()
    await client.wait_ready()
    stream = await client.submit((1,), SamplingParams(max_tokens=500))
    print(client.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.case("orphan-workers")
@pytest.mark.case("parent-death")
async def test_nothing_outlives_a_killed_front_end(wait_gone) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        engine = int(parent.stdout.readline())
        workers = worker_pids(engine)
        assert len(workers) == 2
        parent.kill()
    for pid in (engine, *workers):
        wait_gone(pid)


@pytest.mark.case("orphan-workers")
async def test_no_worker_outlives_a_killed_engine(launch, wait_gone) -> None:
    async with launch(null_plan(options=WORKER)) as client:
        (worker,) = worker_pids(client.pid)
        os.kill(client.pid, signal.SIGKILL)
        wait_gone(worker)


async def test_signals_of_the_terminal_do_not_reach_engine_and_workers(launch) -> None:
    async with launch(null_plan(options=WORKER)) as client:
        for pid in (client.pid, *worker_pids(client.pid)):
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
        assert (await collect(await client.submit((1,), SHORT)))[0] == null_tokens((1,), 30, 1000)
        assert client.status.restarts == 0
