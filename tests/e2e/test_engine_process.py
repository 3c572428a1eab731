import asyncio
import gc
import random
from pathlib import Path

import pytest

from inferplane.engine.client import EngineClient
from inferplane.errors import (
    CapacityError,
    ConfigError,
    EngineError,
    RequestError,
)
from inferplane.interfaces import EngineConfig
from inferplane.launch import LaunchSettings, SchedulerConfig
from inferplane.request import FinishReason
from inferplane.sampling_params import SamplingParams
from inferplane.testing.null import null_tokens
from inferplane.testing.null_engine import null_plan

pytestmark = pytest.mark.asyncio

GREEDY = SamplingParams(temperature=0.0, max_tokens=20)
LONG = SamplingParams(temperature=0.0, max_tokens=500)
SLOW = {"step_ms": "1"}


async def idle(client: EngineClient) -> bool:
    stats = await client.stats()
    nothing = not (stats.running or stats.waiting or stats.slots_allocated)
    return nothing and stats.blocks_free == stats.blocks_total


async def test_planner_engine_and_client_serve_together(model_folder) -> None:
    settings = LaunchSettings(
        EngineConfig(str(model_folder), device="null"), plugins=("inferplane.testing.null",)
    )
    client = EngineClient.launch(settings)
    await client.start()
    assert client.status.phase == "plan"
    with pytest.raises(EngineError) as loading:
        await client.submit((1,), GREEDY)
    assert loading.value.code == "model_loading"
    info = await client.wait_ready()
    assert client.status.phase == "ready" and client.plan is not None
    assert (info.device, info.max_model_len, info.vocab_size) == ("null", 512, 1000)
    assert {change.key for change in client.plan.changes} == {"dtype", "max_model_len"}
    (output,) = await (await client.submit((1, 2, 3), GREEDY)).collect()
    assert list(output.token_ids) == null_tokens((1, 2, 3), 20, 1000)
    await client.close(drain=True)
    assert client.pid == 0


async def test_streams_of_many_requests_do_not_mix(launch) -> None:
    async with launch(null_plan(scheduler=SchedulerConfig(max_waiting=100))) as client:

        async def one(number: int) -> list[int]:
            stream = await client.submit((number, 7), GREEDY)
            return [token async for _, output in stream for token in output.token_ids]

        made = await asyncio.gather(*(one(number) for number in range(60)))
        assert made == [null_tokens((number, 7), 20, 1000) for number in range(60)]
        assert await idle(client)


async def test_children_draw_with_seed_plus_index(launch) -> None:
    async with launch(null_plan(vocab_size=50)) as client:
        params = SamplingParams(n=3, seed=11, max_tokens=12, temperature=3.0)
        together = await (await client.submit((4, 5), params)).collect()
        for index, output in enumerate(together):
            alone = SamplingParams(seed=11 + index, max_tokens=12, temperature=3.0)
            (same,) = await (await client.submit((4, 5), alone)).collect()
            assert output.token_ids == same.token_ids
        assert len({output.token_ids for output in together}) == 3
        assert all(output.finish is FinishReason.LENGTH for output in together)


async def test_an_end_flag_comes_once_for_each_child(launch) -> None:
    async with launch(null_plan()) as client:
        stream = await client.submit((1,), SamplingParams(n=4, max_tokens=9, seed=1))
        ends = [index async for index, output in stream if output.finish is not None]
        assert sorted(ends) == [0, 1, 2, 3]


async def test_an_unset_seed_is_drawn_anew(launch) -> None:
    async with launch(null_plan()) as client:
        params = SamplingParams(temperature=3.0, max_tokens=12)
        made = {(await (await client.submit((1,), params)).collect())[0].token_ids for _ in "ab"}
        assert len(made) == 2


async def test_max_tokens_defaults_to_the_rest_of_the_context(launch) -> None:
    async with launch(null_plan(max_model_len=64)) as client:
        (output,) = await (await client.submit((1,) * 10, SamplingParams(temperature=0))).collect()
        assert len(output.token_ids) == 54 and output.finish is FinishReason.LENGTH


async def test_finish_ends_one_child_and_leaves_the_others(launch, wait_for) -> None:
    async with launch(null_plan(options=SLOW)) as client:
        stream = await client.submit((1,), SamplingParams(n=2, max_tokens=60, temperature=0.0))
        lengths = {0: 0, 1: 0}
        async for index, output in stream:
            lengths[index] += len(output.token_ids)
            if index == 0:
                stream.finish(0)
        assert lengths[0] < 60 and lengths[1] == 60
        await wait_for(lambda: idle(client))
        finished = (await client.stats()).finished
        assert finished == {"stop": 1, "length": 1}


async def test_abort_frees_everything_and_may_come_twice(launch, wait_for) -> None:
    async with launch(null_plan(options=SLOW)) as client:
        stream = await client.submit((1,), LONG)
        await anext(stream)
        stream.abort()
        stream.abort()
        assert [item async for item in stream] == []
        await wait_for(lambda: idle(client))
        assert (await client.stats()).finished == {"abort": 1}


async def test_a_stream_nobody_holds_aborts_itself(launch, wait_for) -> None:
    async with launch(null_plan(options={"step_ms": "30"})) as client:
        stream = await client.submit((1,), LONG)
        await anext(stream)
        del stream
        gc.collect()
        await wait_for(lambda: idle(client))
        assert (await client.stats()).finished == {"abort": 1}


async def test_a_cancelled_submit_leaves_nothing(launch, wait_for) -> None:
    async with launch(null_plan(options={"step_ms": "30"})) as client:
        busy = await client.submit((1,), LONG)  # admission waits for the step under way
        task = asyncio.create_task(client.submit((2,), LONG))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        busy.abort()
        await wait_for(lambda: idle(client))


async def test_random_aborts_leave_no_block_and_no_request(launch, wait_for) -> None:
    plan = null_plan(options={"blocks": "60"}, scheduler=SchedulerConfig(max_waiting=300))
    async with launch(plan) as client:
        rng = random.Random(5)

        async def one(number: int) -> bool:
            prompt = tuple(rng.randrange(1000) for _ in range(rng.randrange(1, 60)))
            count, patience = rng.randrange(1, 60), rng.randrange(40)
            params = SamplingParams(temperature=0.0, max_tokens=count)
            stream = await client.submit(prompt, params)
            made: list[int] = []
            async for _, output in stream:
                made += output.token_ids
                if len(made) > patience:
                    stream.abort()
                    return False
            assert made == null_tokens(prompt, count, 1000)
            return True

        done = await asyncio.gather(*(one(number) for number in range(200)))
        assert 20 < sum(done) < 180
        await wait_for(lambda: idle(client))


async def test_refusals_carry_code_and_field(launch) -> None:
    async with launch(null_plan()) as client:
        for prompt, params, code, param in (
            ((1,) * 512, GREEDY, "context_length_exceeded", "prompt"),
            ((), GREEDY, "invalid_body", "prompt"),
            ((1000,), GREEDY, "token_out_of_vocabulary", "prompt"),
            ((1,), SamplingParams(logit_bias={5000: 1.0}), "token_out_of_vocabulary", "logit_bias"),
        ):
            with pytest.raises(RequestError) as refused:
                await client.submit(prompt, params)
            assert (refused.value.code, refused.value.param) == (code, param)
        assert (await client.stats()).rejected["token_out_of_vocabulary"] == 2


async def test_when_one_child_is_refused_none_runs(launch, wait_for) -> None:
    plan = null_plan(options=SLOW, max_num_seqs=1, scheduler=SchedulerConfig(max_waiting=2))
    async with launch(plan) as client:
        with pytest.raises(RequestError) as refused:
            await client.submit((1,), SamplingParams(n=4, max_tokens=400))
        assert refused.value.code == "queue_full"
        await wait_for(lambda: idle(client))


async def test_drain_finishes_what_runs_and_refuses_the_rest(launch) -> None:
    async with launch(null_plan(options=SLOW)) as client:
        stream = await client.submit((3,), SamplingParams(temperature=0.0, max_tokens=80))
        closing = asyncio.create_task(client.close(drain=True))
        await asyncio.sleep(0)
        assert client.status.phase == "draining"
        with pytest.raises(EngineError) as refused:
            await client.submit((1,), GREEDY)
        assert refused.value.code == "draining"
        (output,) = await stream.collect()
        assert list(output.token_ids) == null_tokens((3,), 80, 1000)
        await closing


async def test_closing_without_drain_ends_streams_with_an_error(launch) -> None:
    async with launch(null_plan(options=SLOW)) as client:
        stream = await client.submit((3,), LONG)
        await client.close()
        (output,) = await stream.collect()
        assert output.finish in (FinishReason.ABORT, FinishReason.ERROR)


@pytest.mark.parametrize(
    ("refuse", "kind", "code"),
    [("config", ConfigError, 2), ("capacity", CapacityError, 4), ("device", EngineError, 7)],
)
async def test_a_failed_start_says_why_and_with_which_exit_code(refuse, kind, code) -> None:
    client = EngineClient.with_plan(null_plan(options={"refuse": refuse}))
    await client.start()
    with pytest.raises(kind, match=f"refuse={refuse}"):
        await client.wait_ready()
    assert client.status.phase == "failed" and client.status.exit_code == code
    with pytest.raises(EngineError) as dead:
        await client.submit((1,), GREEDY)
    assert dead.value.code == "engine_dead"
    await client.close()


async def test_a_pool_too_small_for_the_context_says_what_fits() -> None:
    client = EngineClient.with_plan(null_plan(options={"blocks": "9"}, max_model_len=512))
    await client.start()
    with pytest.raises(CapacityError, match="--max-model-len 128 fits"):
        await client.wait_ready()
    await client.close()


async def test_closing_while_loading_is_quick_and_quiet() -> None:
    client = EngineClient.with_plan(null_plan(options={"load_ms": "3600000"}))
    await client.start()
    with pytest.raises(EngineError) as loading:
        await client.wait_ready(timeout_s=0.5)
    assert loading.value.code == "model_loading"
    await client.close(drain=True)
    assert client.pid == 0


async def test_progress_of_loading_reaches_the_status(wait_for) -> None:
    client = EngineClient.with_plan(null_plan(options={"load_ms": "400"}))
    await client.start()
    seen: set[tuple[str, int, int]] = set()

    async def ready() -> bool:
        status = client.status
        seen.add((status.phase, status.done, status.total))
        return status.phase == "ready"

    await wait_for(ready)
    assert ("load", 2, 4) in seen
    await client.close()


async def test_closing_while_planning_is_quick_and_quiet(model_folder, monkeypatch) -> None:
    (model_folder / "endless.py").write_text("import threading; threading.Event().wait()")
    monkeypatch.setenv("PYTHONPATH", str(model_folder))
    settings = LaunchSettings(EngineConfig(str(model_folder)), plugins=("endless",))
    client = EngineClient.launch(settings)
    await client.start()
    await asyncio.sleep(0)
    assert client.status.phase == "plan"
    await client.close(drain=True)
    with pytest.raises(EngineError) as gone:
        await client.wait_ready()
    assert gone.value.code == "draining"


async def test_a_name_that_cannot_be_written_is_replaced(launch) -> None:
    async with launch(null_plan()) as client:
        stream = await client.submit((1,), GREEDY, request_id="\ud800")
        assert stream.request_id.isascii() and len(await stream.collect()) == 1


async def test_two_requests_may_ask_for_one_name(launch) -> None:
    async with launch(null_plan(options=SLOW)) as client:
        streams = [await client.submit((n,), GREEDY, request_id="same") for n in range(3)]
        made = [(await stream.collect())[0].token_ids for stream in streams]
        assert [list(ids) for ids in made] == [null_tokens((n,), 20, 1000) for n in range(3)]


async def test_an_engine_with_an_executor_of_its_own_never_loads_torch(launch) -> None:
    async with launch(null_plan()) as client:
        await (await client.submit((1,), GREEDY)).collect()
        maps = await asyncio.to_thread(Path(f"/proc/{client.pid}/maps").read_text)
        assert "numpy" in maps and "torch" not in maps
