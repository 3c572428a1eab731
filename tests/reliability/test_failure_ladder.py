"""Row, request, worker, process: each failure is contained on its step, seen through HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import psutil
import pytest

from inferplane.testing.null import null_tokens
from inferplane.testing.tiny_tokenizer import VOCAB_SIZE

LENGTH = 60
PROMPTS = [[3 + n, 5, 9] for n in range(12)]
EXPECTED = [null_tokens(prompt, LENGTH, VOCAB_SIZE) for prompt in PROMPTS]
BAD = max(set(range(20, VOCAB_SIZE)) - {token for tokens in EXPECTED for token in tokens})
"""A token that none of the good requests meets."""


def body(prompt: list[int], **more) -> dict:
    asked = {"prompt": prompt, "max_tokens": LENGTH, "ignore_eos": True, "temperature": 0}
    return asked | {"return_token_ids": True} | more


async def tokens_or_code(server, prompt: list[int], **more) -> tuple[int, object]:
    """(status, output ids or the error's code)."""
    status, _, answer = await server.ask("POST", "/v1/completions", body(prompt, **more))
    told = json.loads(answer)
    return status, told["choices"][0]["token_ids"] if status == 200 else told["error"]["code"]


async def among_good(server, bad_code: str, until) -> None:
    """One bad request between good ones: it ends with that code, they with their own tokens."""
    good = [asyncio.ensure_future(tokens_or_code(server, prompt)) for prompt in PROMPTS]
    bad = await tokens_or_code(server, [4, BAD])
    assert bad == (500, bad_code)
    assert await asyncio.gather(*good) == [(200, expected) for expected in EXPECTED]
    await until(server.idle)


@pytest.mark.case("bad-numerics")
@pytest.mark.case("nan-in-cache")
def test_numbers_that_are_not_finite_end_their_row_alone(serve, until) -> None:
    server = serve("--max-num-seqs", "16", step_ms="1", nan_token=str(BAD))
    asyncio.run(among_good(server, "model_numerical_error", until))
    assert psutil.pid_exists(server.process.pid)


@pytest.mark.case("kv-oom")
@pytest.mark.case("step-exception")
@pytest.mark.parametrize("trouble", ["oom_token", "bug_token", "kill_token"])
@pytest.mark.case("poison-pill")
def test_a_request_that_breaks_its_worker_is_found_and_the_others_finish(
    serve, until, trouble
) -> None:
    options = {"step_ms": "1", "placement": "worker", trouble: str(BAD)}
    server = serve("--max-num-seqs", "16", **options)
    asyncio.run(among_good(server, "engine_poisoned_request", until))


@pytest.mark.case("parent-death")
@pytest.mark.case("orphan-workers")
def test_a_killed_server_leaves_no_worker_and_its_port_is_free(serve, until) -> None:
    server = serve(placement="worker", processes="2")
    children = server.family[1:]
    assert len(children) >= 3
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []
    again = serve(port=server.port)
    assert asyncio.run(tokens_or_code(again, [5]))[0] == 200


@pytest.mark.case("drain")
@pytest.mark.case("one-health")
def test_a_drain_lets_streams_finish_over_a_worker_that_dies(serve) -> None:
    """Both at once: SIGTERM, and then the worker is killed; the stream still ends whole."""
    server = serve(
        "--drain-delay", "0", "--shutdown-timeout", "60", step_ms="5", placement="worker"
    )
    asyncio.run(drained(server))
    assert server.process.wait(60) == 0


async def drained(server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    data = json.dumps(body([5, 6], stream=True)).encode()
    head = "POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    writer.write(head.encode() + f"content-length: {len(data)}\r\n\r\n".encode() + data)
    got = await reader.readuntil(b"data: ")
    os.kill(server.process.pid, signal.SIGTERM)
    for process in server.family:
        if "inferplane.execution.worker" in " ".join(process.cmdline()):
            process.kill()
    got += await reader.readuntil(b"[DONE]")
    writer.close()
    assert b'"finish_reason":"length"' in got and b'"error"' not in got
