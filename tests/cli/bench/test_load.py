"""Laws of the load generator: it sends what is due, counts what comes, reports failures."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from inferplane.cli.bench.figures import Timing
from inferplane.cli.bench.load import exact_body, run_open_loop
from inferplane.cli.bench.workloads import Workload, fixed


class Counting:
    """A server that streams as many chunks as asked, less `short` tokens in its usage."""

    def __init__(self, short: int = 0, status: int = 200) -> None:
        self.bodies: list[dict[str, object]] = []
        self.short, self.status = short, status
        self.app = Starlette(routes=[Route("/v1/completions", self.answer, methods=["POST"])])

    async def answer(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.bodies.append(body)
        if self.status != 200:
            return Response("full", self.status)
        return StreamingResponse(self.stream(body["max_tokens"]), media_type="text/event-stream")

    async def stream(self, count: int) -> AsyncIterator[str]:
        for _ in range(count):
            yield 'data: {"choices": [{"text": "a"}]}\n\n'
        usage = {"completion_tokens": count - self.short}
        yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"


def run(server: Counting, workload: Workload) -> list[Timing]:
    async def measured() -> list[Timing]:
        transport = httpx2.ASGITransport(app=server.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://s/v1") as http:
            timings, took = await run_open_loop(http, "m", workload)
        assert took > 0
        return timings

    return asyncio.run(measured())


def test_every_prompt_is_sent_once_with_its_own_length() -> None:
    server, workload = Counting(), fixed(5, 7, 3)
    timings = run(server, workload)
    sent = sorted(tuple(body["prompt"]) for body in server.bodies)  # type: ignore[arg-type]
    assert sent == sorted(p.ids for p in workload.prompts)
    assert [(t.num_output, t.error, len(t.gaps_s)) for t in timings] == [(3, "", 2)] * 5


def test_first_token_comes_no_later_than_the_last() -> None:
    for timing in run(Counting(), fixed(3, 4, 6)):
        assert 0 < timing.first_s <= timing.end_s


def test_too_few_tokens_are_a_failure() -> None:
    [timing] = run(Counting(short=1), fixed(1, 4, 6))
    assert timing.error == "5 tokens came, 6 were asked for"


def test_a_refusal_is_a_failure_with_its_status() -> None:
    [timing] = run(Counting(status=429), fixed(1, 4, 6))
    assert timing.error == "429: full"


def test_the_work_is_the_same_on_every_server() -> None:
    [prompt] = fixed(1, 4, 6).prompts
    body = exact_body("m", prompt)
    assert (body["max_tokens"], body["ignore_eos"], body["temperature"]) == (6, True, 0)
