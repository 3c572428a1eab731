"""Constraints become grammars, or errors with their place; the process that compiles may die."""

import pytest

from inferplane.errors import RequestError
from inferplane.grammar.compile import GrammarCompiler
from inferplane.grammar.sources import GrammarSource, check_source, pointer_of


@pytest.fixture(scope="module")
def compiler(model):
    made = GrammarCompiler(str(model), 1024, (0,))
    yield made
    made.close()


def fault(compiler, kind, value):
    with pytest.raises(RequestError) as caught:
        compiler.compile(GrammarSource(kind, value, "f"))
    return caught.value.code, caught.value.param


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("json", {"type": "object", "properties": {"a": {"type": "integer"}}}),
        ("json", True),
        ("json", {"$ref": "#/$defs/n", "$defs": {"n": {"type": "null"}}}),
        ("json", {"properties": {"next": {"$ref": "#"}}}),
        ("regex", "[a-z]+"),
        ("choice", ["a", 'quoted "b"', "ü"]),
        ("lark", 'start: "a"'),
        ("gbnf", 'root ::= "a" | "b"'),
        (
            "structural_tag",
            [{"begin": "<a>", "schema": {"type": "integer"}, "end": "</a>", "trigger": "<a"}],
        ),
    ],
)
def test_every_kind_of_constraint_compiles_and_is_remembered(compiler, kind, value):
    source = GrammarSource(kind, value, "f")
    first = compiler.compile(source)
    assert first and compiler.compile(source) is first


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("json", {"type": "xxx"}, ("invalid_schema", "f")),
        ("json", {"a": 1, "if": {}}, ("unsupported_schema_keyword", "f/if")),
        (
            "json",
            {"properties": {"a/b": {"contains": {}}}},
            ("unsupported_schema_keyword", "f/properties/a~1b/contains"),
        ),
        ("json", {"x-guidance": {"lenient": True}}, ("unsupported_schema_keyword", "f/x-guidance")),
        ("json", {"$ref": "#"}, ("invalid_schema", "f/$ref")),
        (
            "json",
            {
                "$ref": "#/$defs/a",
                "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
            },
            ("invalid_schema", "f/$ref"),
        ),
        ("json", {"maxLength": -1}, ("grammar_too_complex", "f/maxLength")),
        ("json", {"maxLength": True}, ("grammar_too_complex", "f/maxLength")),
        ("regex", "(", ("invalid_grammar", "f")),
        ("lark", "no grammar", ("invalid_grammar", "f")),
        ("choice", [], ("grammar_too_complex", "f")),
        ("lark", "x" * 70_000, ("grammar_too_complex", "f")),
    ],
)
def test_what_cannot_be_enforced_is_named(compiler, kind, value, expected):
    assert fault(compiler, kind, value) == expected


@pytest.mark.case("slow-grammar")
def test_a_grammar_that_explodes_is_refused_and_the_next_one_works(compiler):
    node = {"type": "integer"}
    for depth in range(14):
        options = [
            {"type": "object", "properties": {f"k{depth}{i}": node}, "required": [f"k{depth}{i}"]}
            for i in range(2)
        ]
        node = {"oneOf": options}
    with pytest.raises(RequestError):
        compiler.compile(GrammarSource("json", node, "f"))
    assert compiler.compile(GrammarSource("regex", "[0-9]{2}", "f"))


@pytest.mark.case("grammar-cache-growth")
def test_remembered_grammars_are_bounded_in_bytes(compiler):
    from inferplane.grammar import compile as module

    for number in range(40):
        text = f'start: "{number}{"x" * 60_000}"'
        compiler.compile(GrammarSource("lark", text, "f"), "tenant")
    held = compiler._held["tenant"]
    assert sum(map(len, held.values())) <= module._CACHE_BYTES * 2
    for number in range(40, 110):
        text = f'start: "{number}{"x" * 60_000}"'
        compiler.compile(GrammarSource("lark", text, "f"), "tenant")
    assert sum(map(len, held.values())) <= module._CACHE_BYTES


def test_pointers_name_the_first_place_of_a_keyword():
    schema = {"anyOf": [{"type": "null"}, {"items": {"not": {}}}]}
    assert pointer_of(schema, "not") == "/anyOf/1/items/not"
    assert pointer_of(schema, "if") == ""


def test_a_schema_may_have_a_property_called_like_a_keyword():
    check_source(GrammarSource("json", {"properties": {"maxLength": {"type": "integer"}}}, "f"))
