"""Open-loop load on any server with the OpenAI API: each request is sent when it is due."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

import httpx2

from inferplane.cli.bench.figures import Timing
from inferplane.cli.bench.workloads import Prompt, Workload
from inferplane.cli.remote_model import read_events
from inferplane.errors import InferplaneError

__all__ = ["Body", "exact_body", "run_open_loop"]

Body: TypeAlias = Callable[[str, Prompt], dict[str, object]]
"""From served name and prompt to the body of POST /v1/completions."""


def exact_body(model: str, prompt: Prompt) -> dict[str, object]:
    """Greedy, exactly as many tokens as asked: every server does the same work."""
    return {
        "model": model,
        "prompt": list(prompt.ids),
        "max_tokens": prompt.num_output,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def run_open_loop(
    http: httpx2.AsyncClient, model: str, workload: Workload, body: Body = exact_body
) -> tuple[list[Timing], float]:
    """Timings in the order of the workload, and seconds from the first due time to the last end.

    A refused or broken request is a Timing with its error, not an exception.
    """
    began = time.perf_counter()
    timings = await asyncio.gather(
        *(_send_when_due(http, body(model, prompt), prompt, began) for prompt in workload.prompts)
    )
    return timings, time.perf_counter() - began


async def _send_when_due(
    http: httpx2.AsyncClient, body: dict[str, object], prompt: Prompt, began: float
) -> Timing:
    due = began + prompt.arrives_s
    await asyncio.sleep(max(0.0, due - time.perf_counter()))
    arrivals: list[float] = []
    counted = 0
    try:
        async with http.stream("POST", "/completions", json=body) as answer:
            if answer.status_code != httpx2.codes.OK:
                content = (await answer.aread()).decode("utf-8", "replace")
                return _failed(f"{answer.status_code}: {content[:200]}")
            async for event in read_events(answer.aiter_lines()):
                if event["choices"]:
                    arrivals.append(time.perf_counter())
                if event.get("usage"):
                    counted = event["usage"]["completion_tokens"]
    except (httpx2.HTTPError, InferplaneError) as error:
        return _failed(f"{type(error).__name__}: {error}")
    if counted != prompt.num_output:
        return _failed(f"{counted} tokens came, {prompt.num_output} were asked for")
    return _timing(arrivals, due, counted)


def _timing(arrivals: Sequence[float], due: float, num_output: int) -> Timing:
    gaps = tuple(later - sooner for sooner, later in zip(arrivals, arrivals[1:], strict=False))
    return Timing(arrivals[0] - due, arrivals[-1] - due, gaps, num_output)


def _failed(error: str) -> Timing:
    return Timing(0.0, 0.0, (), 0, error)
