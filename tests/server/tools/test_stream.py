# ruff: noqa: E501  (model outputs stand as they are written)
"""Tool calls and reasoning: what each format means, under every split of the text."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferplane.server.tools.events import Content, Reasoning, ToolCall
from inferplane.server.tools.formats import FORMATS, format_named, pick_format
from inferplane.server.tools.stream import OutputParser, begins_thinking
from inferplane.server.tools.values import Tool, by_schema

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "note": {"type": ["string", "null"]},
        "where": {"type": "object"},
    },
}
TOOLS = {name: Tool(name, PARAMETERS) for name in ("weather", "clock")}
ONE = ("weather", {"city": "Zürich", "days": 3})
TWO = ("clock", {})


def read(name, pieces, thinking=False, tools=TOOLS, **more):
    parser = OutputParser(format_named(name), tools, thinking=thinking, **more)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return parser, events + parser.finish()


def summary(events):
    return (
        "".join(e.text for e in events if isinstance(e, Content)),
        "".join(e.text for e in events if isinstance(e, Reasoning)),
        [(e.name, json.loads(e.arguments)) for e in events if isinstance(e, ToolCall)],
    )


DSML = (
    '<｜DSML｜{s}{section}>\n<｜DSML｜{s}invoke name="weather">\n'
    '<｜DSML｜{s}parameter name="city" string="true">Zürich</｜DSML｜{s}parameter>\n'
    '<｜DSML｜{s}parameter name="days" string="false">3</｜DSML｜{s}parameter>\n'
    '</｜DSML｜{s}invoke>\n<｜DSML｜{s}invoke name="clock"/>\n</｜DSML｜{s}{section}>'
)
JSON_ONE = '{"name": "weather", "arguments": {"city": "Zürich", "days": 3}}'
JSON_TWO = '{"name": "clock", "arguments": {}}'
XML = (
    "<function=weather>\n<parameter=city>\nZürich\n</parameter>\n<parameter=days>\n3\n"
    "</parameter>\n</function>"
)
BOTH = {
    "hermes": f"<tool_call>\n{JSON_ONE}\n</tool_call>\n<tool_call>\n{JSON_TWO}\n</tool_call>",
    "qwen_xml": f"<tool_call>\n{XML}\n</tool_call>\n<tool_call>\n<function=clock>\n</function>\n"
    "</tool_call>",
    "seed_oss": f"<seed:tool_call>\n{XML}\n</seed:tool_call><seed:tool_call><function=clock>"
    "</function></seed:tool_call>",
    "glm": "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Zürich</arg_value>\n<arg_key>days"
    "</arg_key>\n<arg_value>3</arg_value>\n</tool_call>\n<tool_call>clock</tool_call>",
    "mistral": '[TOOL_CALLS]weather[ARGS]{"city": "Zürich", "days": 3}[TOOL_CALLS]clock[ARGS]{}',
    "deepseek_v3": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"
    '{"city": "Zürich", "days": 3}\n```<｜tool▁call▁end｜><｜tool▁call▁begin｜>clock<｜tool▁sep｜>{}'
    "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "deepseek_v32": DSML.format(s="", section="function_calls"),
    "deepseek_v4": DSML.format(s="", section="tool_calls"),
    "deepseek_v41": DSML.format(s=" ", section="calls"),
    "kimi_k2": "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0"
    '<|tool_call_argument_begin|>{"city": "Zürich", "days": 3}<|tool_call_end|><|tool_call_begin|>'
    "functions.clock:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
    "gemma4": '<|tool_call>call:weather{city:<|"|>Zürich<|"|>,days:3}<tool_call|><|tool_call>'
    "call:clock{}<tool_call|>",
    "minimax_m2": '<minimax:tool_call>\n<invoke name="weather">\n<parameter name="city">Zürich'
    '</parameter>\n<parameter name="days">3</parameter>\n</invoke>\n<invoke name="clock">\n'
    "</invoke>\n</minimax:tool_call>",
    "step3": "<｜tool_calls_begin｜><｜tool_call_begin｜>function<｜tool_sep｜>"
    '<steptml:invoke name="weather"><steptml:parameter name="city">Zürich</steptml:parameter>'
    '<steptml:parameter name="days">3</steptml:parameter></steptml:invoke><｜tool_call_end｜>'
    '<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="clock"></steptml:invoke>'
    "<｜tool_call_end｜><｜tool_calls_end｜>",
    "nemotron": f"<TOOLCALL>[{JSON_ONE}, {JSON_TWO}]</TOOLCALL>",
    "tool_calls_tag": f"<tool_calls>[{JSON_ONE}, {JSON_TWO}]</tool_calls>",
    "phi4_mini": f"<|tool_call|>[{JSON_ONE}, {JSON_TWO}]<|/tool_call|>",
    "granite3": f"<|tool_call|>[{JSON_ONE}, {JSON_TWO}]",
    "cohere": '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "weather", "parameters": '
    '{"city": "Zürich", "days": 3}}, {"tool_call_id": "1", "tool_name": "clock", "parameters": {}}]'
    "<|END_ACTION|>",
    "internlm": f"<|action_start|><|plugin|>{JSON_ONE.replace('arguments', 'parameters')}"
    f"<|action_end|><|action_start|><|plugin|>{JSON_TWO}<|action_end|>",
    "olmo3": "<function_calls>\nweather(city='Zürich', days=3)\nclock()\n</function_calls>",
    "lfm2": '<|tool_call_start|>[weather(city="Zürich", days=3), clock()]<|tool_call_end|>',
    "llama4_pythonic": "[weather(city='Zürich', days=3), clock()]",
    "llama3_json": f"{JSON_ONE}; {JSON_TWO}",
    "harmony": " to=functions.weather<|channel|>commentary <|constrain|>json<|message|>"
    '{"city": "Zürich", "days": 3}<|call|><|start|>assistant<|channel|>commentary '
    "to=functions.clock<|message|>{}",
    "kimi_k3": '<|close|>response<|sep|><|open|>tools<|sep|><|open|>call tool="weather" index="1"'
    '<|sep|><|open|>argument key="city" type="string"<|sep|>Zürich<|close|>argument<|sep|><|open|>'
    'argument key="days" type="number"<|sep|>3<|close|>argument<|sep|><|close|>call<|sep|><|open|>'
    'call tool="clock" index="2"<|sep|><|close|>call<|sep|><|close|>tools<|sep|>',
}
WITH_CALLS = sorted(BOTH)


def test_every_format_that_writes_calls_is_tested():
    assert set(WITH_CALLS) == {row.name for row in FORMATS if row.tools}


@pytest.mark.parametrize("name", WITH_CALLS)
def test_two_calls_are_read_with_their_types_in_order(name):
    content, thought, calls = summary(read(name, [BOTH[name]])[1])
    assert (content, thought) == ("", "")
    assert calls == [ONE, TWO]


@pytest.mark.parametrize("name", WITH_CALLS)
def test_any_split_gives_the_same_events(name):
    text = BOTH[name]
    whole = summary(read(name, [text])[1])
    assert summary(read(name, list(text))[1]) == whole
    rng = random.Random(name)
    for _ in range(50):
        pieces, left = [], text
        while left:
            size = rng.randint(1, 20)
            pieces.append(left[:size])
            left = left[size:]
        assert summary(read(name, pieces)[1]) == whole


@pytest.mark.parametrize("name", WITH_CALLS)
def test_no_call_comes_out_of_a_text_cut_short_that_was_not_complete(name):
    text = BOTH[name]
    complete = [ONE, TWO]
    for size in range(len(text)):
        _, _, calls = summary(read(name, [text[:size]])[1])
        assert calls == complete[: len(calls)]
        if len(calls) == 2:
            break
    else:
        return  # calls of this format are complete only at the very end


@pytest.mark.parametrize("name", WITH_CALLS)
def test_a_call_is_handed_out_before_the_output_ends(name):
    if name in ("llama3_json", "llama4_pythonic"):
        pytest.skip("only the end of the output says that these are calls")
    parser = OutputParser(format_named(name), TOOLS, thinking=False)
    events = parser.feed(BOTH[name] + "\n")
    assert any(isinstance(event, ToolCall) for event in events)


@pytest.mark.parametrize("name", WITH_CALLS)
def test_without_tools_nothing_is_a_call(name):
    _, _, calls = summary(read(name, [BOTH[name]], tools={})[1])
    assert calls == []


@pytest.mark.parametrize("name", ["hermes", "qwen_xml", "glm", "mistral", "gemma4", "deepseek_v3"])
def test_text_around_calls_is_content(name):
    content, _, calls = summary(read(name, ["Let me see." + BOTH[name] + "Done."])[1])
    assert content == "Let me see.Done." and calls == [ONE, TWO]


def test_at_most_one_call_when_they_may_not_be_parallel():
    _, events = read("hermes", [BOTH["hermes"]], at_most_one=True)
    assert summary(events)[2] == [ONE]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "hermes",
            '<tool_call>{"name": "clock", "arguments": {"city": "a </tool_call> b"}}</tool_call>',
        ),
        (
            "qwen_xml",
            "<tool_call>\n<function=clock>\n<parameter=city>\na </tool_call> b\n</parameter>\n"
            "</function>\n</tool_call>",
        ),
        (
            "glm",
            "<tool_call>clock<arg_key>city</arg_key><arg_value>a </tool_call> b</arg_value></tool_call>",
        ),
    ],
)
def test_a_marker_inside_an_argument_is_text(name, text):
    for pieces in ([text], list(text)):
        assert summary(read(name, pieces)[1])[2] == [("clock", {"city": "a </tool_call> b"})]


THOUGHTS = {
    "hermes": ("<think>\n", "\n</think>\n\n"),
    "think": ("<think>\n", "\n</think>\n\n"),
    "mistral": ("[THINK]", "[/THINK]"),
    "seed_oss": ("<seed:think>\n", "</seed:think>\n"),
    "cohere": ("<|START_THINKING|>", "<|END_THINKING|>"),
    "gemma4": ("<|channel>thought\n", "<channel|>"),
    "harmony": (
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
    "kimi_k3": ("<|open|>think<|sep|>", "<|close|>think<|sep|><|open|>response<|sep|>"),
}


@pytest.mark.parametrize("name", sorted(THOUGHTS))
def test_thinking_is_told_apart_from_the_answer(name):
    start, end = THOUGHTS[name]
    text = f"{start}I wonder,\nreally.{end}Yes."
    for pieces in ([text], list(text)):
        assert summary(read(name, pieces)[1]) == ("Yes.", "I wonder,\nreally.", [])


@pytest.mark.parametrize("name", ["hermes", "glm", "kimi_k2", "think"])
def test_an_output_begins_inside_the_thinking_when_its_prompt_ends_there(name):
    row = format_named(name)
    assert begins_thinking(row, "<assistant>\n<think>\n")
    assert not begins_thinking(row, "<assistant>\n<think>\n\n</think>\n\n")
    text = "I wonder.\n</think>\n\nYes."
    assert summary(read(name, [text], thinking=True)[1]) == ("Yes.", "I wonder.", [])


def test_thinking_cut_short_stays_thinking():
    assert summary(read("hermes", ["<think>\nI won"])[1]) == ("", "I won", [])


def test_a_call_may_end_the_thinking_where_the_family_does_so():
    text = "I look.\n" + BOTH["qwen_xml"]
    assert summary(read("qwen_xml", [text], thinking=True)[1]) == ("", "I look.", [ONE, TWO])


def test_what_only_looks_like_a_call_is_content_and_told():
    parser, events = read("hermes", ["See <tool_call>no json</tool_call>!"])
    assert summary(events) == ("See <tool_call>no json</tool_call>!", "", [])
    assert parser.unparsed


def test_an_unfinished_call_is_dropped_and_told():
    parser, events = read("hermes", ['I look.\n<tool_call>\n{"name": "weather", "argum'])
    assert summary(events) == ("I look.", "", [])
    assert parser.unparsed


def test_an_answer_in_json_is_no_call():
    for text in ('{"capital": "Paris"}', '{"name": "nobody", "arguments": {}}', '{"a": 1} is it'):
        for pieces in ([text], list(text)):
            assert summary(read("llama3_json", pieces)[1]) == (text, "", [])


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from([row.name for row in FORMATS if row.name not in ("harmony", "kimi_k3")]),
    text=st.text(alphabet="ab <>{}[]\"'\n\\=:/|,()", max_size=60),
    cut=st.integers(0, 60),
)
def test_plain_text_passes_through_whole(name, text, cut):
    _, events = read(name, [text[:cut], text[cut:]])
    content, thought, calls = summary(events)
    assert (content, thought, calls) == (text, "", [])


@pytest.mark.case("eval-in-parser")
@pytest.mark.case("parser-regex")
@pytest.mark.parametrize("name", WITH_CALLS)
@pytest.mark.parametrize(
    "unit", ["[", "{", '"', "<", "\\", "<tool_call>", "(", "a(b=", "<parameter=x>", "\n", " ", "[["]
)
def test_adversarial_output_is_read_in_bounded_work(name, unit):
    """Work is counted in yields and characters looked at, not in seconds."""
    opener = BOTH[name][: BOTH[name].find("weather")]
    text = opener + unit * (6000 // len(unit))
    parser = OutputParser(format_named(name), TOOLS, thinking=False)
    looked = 0
    for start in range(0, len(text), 16):
        parser.feed(text[start : start + 16])
        source = parser._flow.source
        looked += len(source._text) - source._at
    parser.finish()
    # what stays unread between two feeds is a possible marker or whitespace, never the whole text
    assert looked < len(text) * 40 or unit in ("\n", " ")


def test_nothing_in_a_call_is_evaluated():
    text = "[weather(city=__import__('os').system('true'))]"
    content, _, calls = summary(read("llama4_pythonic", [text])[1])
    assert calls == [] and content == text


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("3", {"type": "integer"}, 3),
        ("3", {"type": "string"}, "3"),
        ("3.0", {"type": "integer"}, 3),
        ("True", {"type": "boolean"}, True),
        ("null", {"type": ["string", "null"]}, None),
        ("null", {"type": "string"}, "null"),
        ("02139", {"type": "integer"}, "02139"),
        ("[1, 2]", {"type": "array"}, [1, 2]),
        ("[1, 2", {"type": "array"}, "[1, 2"),
        ("5", {"anyOf": [{"type": "integer"}, {"type": "null"}]}, 5),
        ("x", {"anyOf": [{"type": "integer"}, {"type": "string"}]}, "x"),
        ("b", {"enum": ["a", "b"]}, "b"),
        ("5", None, "5"),
        ("1e999", {"type": "number"}, "1e999"),
    ],
)
def test_values_without_quotes_are_typed_by_the_schema(text, schema, value):
    found = by_schema(text, schema)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("template", "architecture", "name"),
    [
        ('{{ tools }}<tool_call>\n{"name"', "Qwen3ForCausalLM", "hermes"),
        ("<tool_call>\n<function=example>", "Qwen3MoeForCausalLM", "qwen_xml"),
        ("<tool_call>{name}<arg_key>", "Glm4MoeForCausalLM", "glm"),
        ("[TOOL_CALLS] [", "MistralForCausalLM", "mistral"),
        ("<｜tool▁calls▁begin｜>", "DeepseekV3ForCausalLM", "deepseek_v3"),
        ("<|start|>{{role}}<|channel|>x<|message|>", "GptOssForCausalLM", "harmony"),
        ("Environment: ipython", "LlamaForCausalLM", "llama3_json"),
        ("<|im_start|>{{ message.content }}", "LlamaForCausalLM", "plain"),
        ("{% if enable_thinking %}", "SomeForCausalLM", "think"),
        (None, "Qwen3ForCausalLM", "hermes"),
        (None, "UnknownForCausalLM", "plain"),
    ],
)
def test_the_format_is_picked_by_template_then_architecture(template, architecture, name):
    pick = pick_format(template, architecture)
    assert pick.format.name == name and pick.evidence


def test_an_unknown_format_name_lists_the_known_ones():
    with pytest.raises(KeyError, match="hermes"):
        format_named("nothing")
