"""/openapi.json tells every route, and no request gets an answer that it does not tell."""

import random

import pytest

from inferplane.server.errors import CODES

EDGES = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**63) - 1,
    0.5,
    1e308,
    "",
    "5",
    "x" * 300,
    "\ud7ff\U0001f600",
    [],
    [None],
    [[]],
    {},
    {"type": "text"},
    {"a": {"b": []}},
)
CASES = 700
GENERATES = {"max_tokens": 1, "max_output_tokens": 1, "max_completion_tokens": 1, "num_predict": 1}


@pytest.fixture(scope="module")
def document(live):
    with live.client() as http:
        return http.get("/openapi.json").json()


def test_every_route_is_in_the_document(live, document):
    for route in live.server.app.gate.routes:
        path = route.path.replace(":path}", "}")
        for method in set(route.methods) - {"HEAD"}:
            operation = document["paths"][path][method.lower()]
            assert operation["x-inferplane-scope"] == route.scope
            assert ("security" in operation) == (route.scope != "open")
            assert "200" in operation["responses"]
    ids = [one["operationId"] for path in document["paths"].values() for one in path.values()]
    assert len(set(ids)) == len(ids)


def test_every_status_of_an_error_code_is_told_somewhere(document):
    chat = document["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert {f"{info.status}" for info in CODES.values()} - {"405"} <= set(chat)
    error = document["components"]["schemas"]["Error"]["properties"]["error"]
    assert error["properties"]["code"]["enum"] == sorted(CODES)


def test_fields_carry_their_bounds_and_state(document):
    body = document["paths"]["/v1/completions"]["post"]["requestBody"]
    fields = body["content"]["application/json"]["schema"]["properties"]
    assert fields["temperature"]["maximum"] == 2
    assert fields["suffix"]["x-inferplane-state"] == "R"


def sample(schema, draw, depth=0):
    """A value that a schema may accept, or one of the edges."""
    if depth > 4 or draw.random() < 0.15:
        return draw.choice(EDGES)
    if "anyOf" in schema:
        return sample(draw.choice(schema["anyOf"]), draw, depth + 1)
    if "enum" in schema:
        return draw.choice(schema["enum"])
    kind = schema.get("type")
    if kind == "object":
        members = schema.get("properties", {})
        taken = set(schema.get("required", ())) | {n for n in members if draw.random() < 0.08}
        return {n: sample(members[n], draw, depth + 1) for n in sorted(taken) if n in members}
    if kind == "array":
        return [sample(schema.get("items", {}), draw, depth + 1) for _ in range(draw.randrange(3))]
    if kind in ("integer", "number"):
        return draw.choice((schema.get("minimum", 0), schema.get("maximum", 1), 1))
    if kind == "boolean":
        return draw.random() < 0.5
    return draw.choice(("a", "hello", "text", "user", *EDGES)) if kind == "string" else None


def test_whatever_is_sent_gets_a_status_that_the_document_tells(http, document):
    draw = random.Random(7)
    posts = [
        (path, one["post"])
        for path, one in document["paths"].items()
        if "application/json" in one.get("post", {}).get("requestBody", {}).get("content", {})
    ]
    seen = set()
    for number in range(CASES):
        path, operation = posts[number % len(posts)]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        body = sample(schema, draw)
        if isinstance(body, dict):
            short = {n: v for n, v in GENERATES.items() if n in schema["properties"]}
            body = short | {"temperature": 0} | body if draw.random() < 0.8 else body
        answer = http.post(path, json=body)
        assert answer.status_code < 500, (path, body, answer.text)
        assert f"{answer.status_code}" in operation["responses"], (path, body)
        if answer.status_code >= 400:
            assert "error" in answer.json(), (path, body)
        seen.add(answer.status_code)
    assert {200, 400} <= seen
