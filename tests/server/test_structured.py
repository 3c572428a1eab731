"""Constrained outputs: whatever the device would rather say, the answer matches."""

import json
import re

import pytest

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def live(start):
    server = start(config={"max_model_len": 2048, "max_batched_tokens": 1024})
    server.wait_ready()
    return server


def chat(http, **body):
    asked = {"messages": HELLO, "max_tokens": 400, "temperature": 1.0} | body
    response = http.post(CHAT, json=asked)
    assert response.status_code == 200, response.text
    return response.json()["choices"]


def schema_format(schema):
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def is_person(value):
    return (
        set(value) <= {"name", "age", "tags"}
        and isinstance(value["name"], str)
        and len(value["name"]) <= 8
        and isinstance(value["age"], int)
        and 0 <= value["age"] <= 120
        and set(value.get("tags", ())) <= {"a", "b"}
        and len(value.get("tags", ())) <= 3
    )


@pytest.mark.parametrize("seed", range(12))
def test_a_json_schema_is_always_matched(http, seed):
    for choice in chat(http, response_format=schema_format(PERSON), seed=seed, n=2):
        assert choice["finish_reason"] == "stop"
        assert is_person(json.loads(choice["message"]["content"]))


def test_any_object_is_an_object(http):
    body = {"response_format": {"type": "json_object"}, "seed": 1, "temperature": 0.1}
    for choice in chat(http, **body, logit_bias={str(ord("}") - 33 + 1): 5}):
        text = choice["message"]["content"]
        assert text.lstrip().startswith("{")
        if choice["finish_reason"] == "stop":
            assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize("field", ["structured_outputs", "guided"])
def test_patterns_and_choices_are_matched(http, field):
    def asked(name, value):
        return (
            {field: {name: value}} if field == "structured_outputs" else {f"guided_{name}": value}
        )

    for seed in range(4):
        body = {"prompt": "x", "max_tokens": 60, "seed": seed, "temperature": 1}
        made = http.post(TEXT, json=body | asked("regex", "[a-f]{3}-[0-9]{2}")).json()
        assert re.fullmatch("[a-f]{3}-[0-9]{2}", made["choices"][0]["text"])
        made = http.post(TEXT, json=body | asked("choice", ["red", "green", "blue"])).json()
        assert made["choices"][0]["text"] in ("red", "green", "blue")


def test_grammars_in_both_notations_are_matched(http):
    lark = 'start: "<" NUMBER ">"\nNUMBER: /[0-9]{1,4}/\n'
    ebnf = 'root ::= "<" [0-9]+ ">"\n'
    for grammar in (lark, ebnf):
        body = {"prompt": "x", "max_tokens": 100, "seed": 2, "temperature": 1}
        made = http.post(TEXT, json=body | {"structured_outputs": {"grammar": grammar}}).json()
        text = made["choices"][0]["text"]
        finished = made["choices"][0]["finish_reason"] == "stop"
        assert re.fullmatch("<[0-9]+>", text) or (not finished and re.fullmatch("<[0-9]+", text))


def test_tags_constrain_what_is_in_them(http):
    form = {
        "type": "structural_tag",
        "structures": [{"begin": "<n>", "schema": {"type": "integer"}, "end": "</n>"}],
        "triggers": ["<n>"],
    }
    body = {"messages": HELLO, "max_tokens": 8, "response_format": form}
    assert http.post(CHAT, json=body).status_code == 200


def test_a_stream_joins_to_the_constrained_answer(http):
    body = {"response_format": schema_format(PERSON), "seed": 3}
    whole = chat(http, **body)[0]["message"]["content"]
    asked = {"messages": HELLO, "max_tokens": 400, "temperature": 1.0, "stream": True} | body
    with http.stream("POST", CHAT, json=asked) as response:
        lines = [x[6:] for x in response.iter_lines() if x.startswith("data: {")]
    parts = [c["delta"].get("content", "") for x in lines for c in json.loads(x)["choices"]]
    assert "".join(parts) == whole


def test_it_works_beside_penalties_logprobs_stops_and_allowed_tokens(http):
    body = {"response_format": schema_format(PERSON), "seed": 4}
    more = {
        "presence_penalty": 0.5,
        "repetition_penalty": 1.2,
        "logprobs": True,
        "top_logprobs": 2,
        "top_k": 50,
        "min_p": 0.001,
    }
    (choice,) = chat(http, **body, **more)
    assert is_person(json.loads(choice["message"]["content"]))
    assert len(choice["logprobs"]["content"]) > 5


def test_an_answer_cut_by_its_length_says_so(http):
    (choice,) = chat(http, response_format=schema_format(PERSON), max_tokens=3)
    assert choice["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("param", "code", "body"),
    [
        ("response_format.type", "missing_field", {"response_format": {}}),
        ("response_format.type", "unknown_value", {"response_format": {"type": "xml"}}),
        ("response_format", "invalid_type", {"response_format": "json"}),
        (
            "response_format.json_schema",
            "missing_field",
            {"response_format": {"type": "json_schema"}},
        ),
        (
            "response_format.json_schema.name",
            "missing_field",
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
        ),
        (
            "response_format.json_schema.schema",
            "invalid_type",
            {"response_format": schema_format("x")},
        ),
        (
            "response_format.json_schema.schema",
            "invalid_schema",
            {"response_format": schema_format({"type": "xxx"})},
        ),
        (
            "response_format.json_schema.schema",
            "invalid_schema",
            {"response_format": schema_format({"type": "string", "pattern": "*["})},
        ),
        (
            "response_format.json_schema.schema/properties/a/not",
            "unsupported_schema_keyword",
            {
                "response_format": schema_format(
                    {"type": "object", "properties": {"a": {"not": {"type": "string"}}}}
                )
            },
        ),
        (
            "response_format.json_schema.schema/$ref",
            "invalid_schema",
            {"response_format": schema_format({"$ref": "#"})},
        ),
        (
            "response_format.json_schema.schema/properties/a/$ref",
            "invalid_schema",
            {"response_format": schema_format({"properties": {"a": {"$ref": "#/$defs/no"}}})},
        ),
        (
            "response_format.json_schema.schema/properties/a/$ref",
            "unsupported_schema_keyword",
            {"response_format": schema_format({"properties": {"a": {"$ref": "http://x/y"}}})},
        ),
        (
            "response_format.json_schema.schema/maxItems",
            "grammar_too_complex",
            {"response_format": schema_format({"type": "array", "maxItems": 2**64 - 1})},
        ),
        (
            "response_format.json_schema.schema/enum",
            "grammar_too_complex",
            {"response_format": schema_format({"enum": list(range(1001))})},
        ),
        (
            "structured_outputs.regex",
            "grammar_too_complex",
            {"structured_outputs": {"regex": "a" * 513}},
        ),
        (
            "structured_outputs.regex",
            "grammar_too_complex",
            {"structured_outputs": {"regex": "a{100000}"}},
        ),
        ("structured_outputs.regex", "invalid_grammar", {"structured_outputs": {"regex": "("}}),
        (
            "structured_outputs.grammar",
            "invalid_grammar",
            {"structured_outputs": {"grammar": "start: nothing"}},
        ),
        (
            "structured_outputs.grammar",
            "invalid_grammar",
            {"structured_outputs": {"grammar": "root ::= root"}},
        ),
        ("structured_outputs", "missing_field", {"structured_outputs": {}}),
        ("structured_outputs.json", "invalid_schema", {"structured_outputs": {"json": "{"}}),
        (
            "structured_outputs.regex",
            "conflicting_fields",
            {"structured_outputs": {"json": {}, "regex": "a"}},
        ),
        (
            "guided_regex",
            "conflicting_fields",
            {"response_format": {"type": "json_object"}, "guided_regex": "a"},
        ),
        (
            "min_tokens",
            "conflicting_fields",
            {"response_format": {"type": "json_object"}, "min_tokens": 3},
        ),
        ("structured_outputs.choice", "out_of_range", {"structured_outputs": {"choice": []}}),
    ],
)
@pytest.mark.case("bad-schema")
@pytest.mark.case("grammar-recursion")
def test_what_cannot_be_enforced_is_refused_with_its_place(http, param, code, body):
    response = http.post(CHAT, json={"messages": HELLO, "max_tokens": 4} | body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["code"], error["param"]) == (code, param), error["message"]


@pytest.mark.case("grammar-recursion")
def test_deep_and_large_schemas_are_refused_and_the_next_one_works(http):
    deep = {"type": "string"}
    for _ in range(60):
        deep = {"type": "array", "items": deep}
    wide = {"type": "object", "properties": {f"k{i}": {"type": "string"} for i in range(6000)}}
    for schema in (deep, wide):
        body = {"messages": HELLO, "max_tokens": 4, "response_format": schema_format(schema)}
        response = http.post(CHAT, json=body)
        assert response.status_code == 400
        assert response.json()["error"]["code"] in ("grammar_too_complex", "out_of_range")
    assert is_person(
        json.loads(
            chat(http, response_format=schema_format(PERSON), seed=9)[0]["message"]["content"]
        )
    )


TOOLS = [
    {"type": "function", "function": {"name": "register", "parameters": PERSON}},
    {
        "type": "function",
        "function": {
            "name": "move",
            "parameters": {
                "$defs": {"way": {"enum": ["up", "down"]}},
                "type": "object",
                "properties": {"way": {"$ref": "#/$defs/way"}},
                "required": ["way"],
                "additionalProperties": False,
            },
        },
    },
]


def calls_of(choice):
    return [
        (c["function"]["name"], json.loads(c["function"]["arguments"]))
        for c in choice["message"]["tool_calls"]
    ]


@pytest.mark.parametrize("seed", range(6))
def test_a_required_call_is_made_by_its_schema(http, seed):
    body = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False, "seed": seed}
    (choice,) = chat(http, **body)
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    ((name, arguments),) = calls_of(choice)
    assert name in ("register", "move")
    assert is_person(arguments) if name == "register" else arguments["way"] in ("up", "down")


def test_a_named_call_is_of_that_tool(http):
    named = {"type": "function", "function": {"name": "move"}}
    for seed in range(4):
        (choice,) = chat(http, tools=TOOLS, tool_choice=named, seed=seed)
        ((name, arguments),) = calls_of(choice)
        assert name == "move" and arguments["way"] in ("up", "down")


def test_allowed_tools_limit_the_choice(http):
    choice = {
        "type": "allowed_tools",
        "allowed_tools": {
            "mode": "required",
            "tools": [{"type": "function", "function": {"name": "move"}}],
        },
    }
    (made,) = chat(http, tools=TOOLS, tool_choice=choice, seed=5, parallel_tool_calls=False)
    assert [name for name, _ in calls_of(made)] == ["move"]


def test_a_schema_beside_tools_gives_an_answer_or_a_call(http):
    for seed in range(6):
        (choice,) = chat(http, tools=TOOLS, response_format=schema_format(PERSON), seed=seed)
        if choice["finish_reason"] == "tool_calls":
            assert all(name in ("register", "move") for name, _ in calls_of(choice))
        else:
            assert is_person(json.loads(choice["message"]["content"]))


def test_strict_tools_leave_text_free_until_a_call_begins(http):
    strict = [{"type": "function", "function": {**TOOLS[1]["function"], "strict": True}}]
    opening = "<tool_call>"
    ids = http.post("/tokenize", json={"prompt": opening, "add_special_tokens": False}).json()
    bias = {str(id): 100 for id in ids["tokens"][:1]}
    body = {"messages": HELLO, "tools": strict, "max_tokens": 30, "logit_bias": bias}
    assert http.post(CHAT, json=body).status_code == 200


def test_after_all_of_this_no_block_is_held(http, live):
    chat(http, response_format=schema_format(PERSON), seed=1)
    stats = live.stats()
    assert stats.running == stats.waiting == 0
    assert not live.context.lifecycle.running


@pytest.mark.case("int-extremes")
@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "maximum": 10**300},
        {"const": 2**70},
        {"enum": [1, -(2**70)]},
        {"properties": {"a": {"items": {"minimum": 2**64}}}},
    ],
)
def test_whole_numbers_beyond_64_bits_in_a_schema_are_refused(live, schema):
    tag = {"begin": "<a>", "schema": schema, "end": "</a>"}
    tags = {"type": "structural_tag", "structures": [tag], "triggers": ["<a"]}
    asked = [
        {"response_format": schema_format(schema)},
        {"response_format": tags},
        {"structured_outputs": {"json": json.dumps(schema)}},
        {"guided_json": schema},
    ]
    with live.client() as http:
        for more in asked:
            answer = http.post(CHAT, json={"messages": HELLO, "max_tokens": 3} | more)
            assert answer.status_code == 400, answer.text
            assert "beyond 64 bits" in answer.json()["error"]["message"]


@pytest.mark.case("bad-schema")
@pytest.mark.parametrize(
    "text",
    [
        '{"structures": [1], "triggers": ["<a"]}',
        '{"structures": [{}], "triggers": ["<a"]}',
        '{"structures": 5, "triggers": ["<a"]}',
        '{"structures": [{"begin": 5, "schema": {}, "end": "x"}], "triggers": ["<a"]}',
        '{"structures": [{"begin": "<a", "schema": "x", "end": "x"}], "triggers": ["<a"]}',
        '{"structures": [{"begin": "<a", "schema": {}, "end": "x"}], "triggers": 5}',
        '{"structures": []}',
        "{}",
    ],
)
def test_tags_in_a_text_keep_the_rules_of_tags(live, text):
    body = {"messages": HELLO, "max_tokens": 3, "structured_outputs": {"structural_tag": text}}
    with live.client() as http:
        answer = http.post(CHAT, json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"].startswith("structured_outputs.structural_tag")


@pytest.mark.parametrize("text", ['{"const": NaN}', '{"enum": [-Infinity]}', '{"maximum": 1e999}'])
def test_a_schema_in_a_text_is_read_as_strictly_as_a_body(live, text):
    with live.client() as http:
        for more in ({"structured_outputs": {"json": text}}, {"guided_json": text}):
            answer = http.post(CHAT, json={"messages": HELLO, "max_tokens": 3} | more)
            assert answer.status_code == 400, answer.text
            assert answer.json()["error"]["code"] == "invalid_schema"
