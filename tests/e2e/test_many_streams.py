"""Many users of the default model at once, one of them with a very long prompt."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from urllib.request import urlopen

import openai
from prometheus_client.parser import text_string_to_metric_families

from inferplane.config import DEFAULT_MODEL

STREAMS = 32
OUTPUT = 64
LONG_PROMPT = 4000
EVERY = {"temperature": 0.0, "stream": True, "extra_body": {"ignore_eos": True}}


def prompt(number: int, length: int) -> list[int]:
    """Token ids that no other number shares."""
    return [1000 + (number * 7919 + n * 31) % 40_000 for n in range(length)]


def figure(url: str, name: str) -> float:
    """The sum of one metric's samples."""
    with urlopen(f"{url}/metrics") as answer:
        families = text_string_to_metric_families(answer.read().decode())
        found = [s.value for f in families for s in f.samples if s.name == name]
    assert found, f"no metric {name}"
    return sum(found)


async def crowd(url: str) -> tuple[Counter[str], Counter[str]]:
    """Tokens of each stream, and those that came while the long prompt was being computed."""
    tokens: Counter[str] = Counter()
    meanwhile: Counter[str] = Counter()
    all_begun = asyncio.Event()
    long_state = "none"

    async def read(client: openai.AsyncOpenAI, name: str, ids: list[int], count: int) -> None:
        nonlocal long_state
        stream = await client.completions.create(
            model=DEFAULT_MODEL, prompt=ids, max_tokens=count, **EVERY
        )
        async for chunk in stream:
            if not chunk.choices[0].text and chunk.choices[0].finish_reason is None:
                continue
            tokens[name] += 1
            if name == "long":
                long_state = "begun"
            elif long_state == "sent":
                meanwhile[name] += 1
            if len(tokens) == STREAMS:
                all_begun.set()

    limits = {"max_retries": 0, "timeout": None}
    made = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", **limits)
    async with made as client, asyncio.TaskGroup() as group:
        for number in range(STREAMS):
            group.create_task(read(client, f"s{number}", prompt(number, 8 + number), OUTPUT))
        await all_begun.wait()
        long_state = "sent"
        group.create_task(read(client, "long", prompt(99, LONG_PROMPT), 4))
    return tokens, meanwhile


def test_a_long_prompt_among_32_streams_stops_nobody_and_all_blocks_come_back(url: str) -> None:
    before = figure(url, "inferplane_kv_cache_usage_ratio")
    tokens, meanwhile = asyncio.run(crowd(url))
    assert len(tokens) == STREAMS + 1
    assert all(tokens[f"s{number}"] > OUTPUT // 4 for number in range(STREAMS))
    assert len(meanwhile) == STREAMS and min(meanwhile.values()) >= 3
    assert figure(url, "inferplane_kv_cache_usage_ratio") == before == 0.0
    assert figure(url, "inferplane_kv_cache_waste_ratio") == 0.0


def test_a_long_prefix_said_again_is_cached_counted_and_answered_sooner(url: str) -> None:
    asked = {"model": DEFAULT_MODEL, "prompt": prompt(7, 2000), "max_tokens": 1, "temperature": 0}
    seconds, cached = [], []
    known = figure(url, "inferplane_prompt_tokens_cached_total")
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=None) as client:
        for _ in range(2):
            began = time.perf_counter()
            usage = client.completions.create(**asked).usage
            seconds.append(time.perf_counter() - began)
            assert usage is not None
            cached.append(usage.prompt_tokens_details.cached_tokens)
    assert cached[0] == 0 and cached[1] >= 1900
    assert figure(url, "inferplane_prompt_tokens_cached_total") - known == cached[1]
    assert seconds[1] < seconds[0] / 2
    print(f"first {seconds[0]:.3f} s, again {seconds[1]:.3f} s")
