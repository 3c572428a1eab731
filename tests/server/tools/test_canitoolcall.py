"""Every fixture of the canitoolcall suite, strictly, under token-like and random splits.

The suite is no requirement of the developer tools: install canitoolcall==0.1.1 to run it.
"""

import random

import pytest

from inferplane.server.tools.events import Content, Reasoning, ToolCall
from inferplane.server.tools.formats import format_named
from inferplane.server.tools.stream import OutputParser, begins_thinking
from inferplane.server.tools.values import Tool

suite = pytest.importorskip("canitoolcall", reason="pip install canitoolcall==0.1.1")

from canitoolcall import checks  # noqa: E402
from canitoolcall.fixtures import load_fixtures  # noqa: E402
from canitoolcall.pytest_plugin import family_for  # noqa: E402
from canitoolcall.results import Observation, ParsedToolCall, ParseResult, Status  # noqa: E402

FORMATS = {
    "deepseek-v3": "deepseek_v3",
    "deepseek-v31": "deepseek_v3",
    "deepseek-v32": "deepseek_v32",
    "deepseek-v4": "deepseek_v4",
    "deepseek-v41": "deepseek_v41",
    "gemma4": "gemma4",
    "gpt-oss": "harmony",
    "kimi-k3-xtml": "kimi_k3",
    "kimi-k2-thinking": "kimi_k2",
    "kimi-k2-instruct": "kimi_k2",
    "llama3-json": "llama3_json",
    "llama4-pythonic": "llama4_pythonic",
}
BY_FAMILY = {
    "glm": "glm",
    "mistral": "mistral",
    "qwen3-hermes": "hermes",
    "qwen3-xml": "qwen_xml",
}
MISSES = {
    "gemma4/vllm-text-before-call": "wants the space before a call dropped, where "
    "gemma4/sglang-text-before-call wants it kept",
}
"""Fixture -> why it does not pass strictly. This list may only shrink."""

FIXTURES = load_fixtures(None)


def parse(fixture, family, pieces):
    reference = family.reference_for(fixture.reference_model)
    row = format_named(BY_FAMILY.get(family.slug) or FORMATS[reference.variant])
    prompt = fixture.generation_prompt
    if prompt is None:
        prompt = reference.default_generation_prompt or ""
    functions = [tool.get("function", tool) for tool in fixture.tools]
    tools = {f["name"]: Tool(f["name"], f.get("parameters") or {}) for f in functions}
    parser = OutputParser(
        row, tools or {"none": Tool("none")}, thinking=begins_thinking(row, prompt)
    )
    events = [event for piece in pieces for event in parser.feed(piece)] + parser.finish()
    return ParseResult(
        content="".join(e.text for e in events if isinstance(e, Content)) or None,
        reasoning_content="".join(e.text for e in events if isinstance(e, Reasoning)) or None,
        tool_calls=tuple(
            ParsedToolCall(e.name, e.arguments) for e in events if isinstance(e, ToolCall)
        ),
        exception=None,
    )


def splits(text):
    yield "one", [text]
    yield "char:0", list(text)
    for seed in range(1, 6):
        rng, pieces, left = random.Random(seed), [], text
        while left:
            size = rng.randint(1, 24)
            pieces.append(left[:size])
            left = left[size:]
        yield f"rand:{seed}:8", pieces


@pytest.mark.parametrize("fixture", FIXTURES, ids=[f.id for f in FIXTURES])
def test_the_output_is_read_as_the_suite_expects(fixture):
    family = family_for(fixture)
    streams = {name: parse(fixture, family, list(p)) for name, p in splits(fixture.raw_output)}
    rows = checks.run_checks(fixture, family, Observation(streams["one"], streams))
    passed = checks.case_status(rows) is Status.PASS
    assert passed is (fixture.id not in MISSES), [r for r in rows if r.status is not Status.PASS]
