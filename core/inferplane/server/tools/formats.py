"""Every known way of writing calls and thoughts, one row each, and how a template shows which.

A row is picked by texts that only templates of its family contain; architecture names settle what
a template leaves open. `inferplane inspect` prints the pick and the evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from inferplane.server.tools.channels import harmony_flow, xtml_flow
from inferplane.server.tools.json_calls import JsonCalls, read_bare_json
from inferplane.server.tools.marked_calls import (
    DeepSeekCalls,
    read_gemma,
    read_kimi,
    read_mistral,
)
from inferplane.server.tools.plain_flow import Flow, PlainFlow, Thinking
from inferplane.server.tools.pythonic import PythonCalls
from inferplane.server.tools.source import Reading
from inferplane.server.tools.tagged_calls import FunctionTags, InvokeTags, read_glm

__all__ = ["FORMATS", "Format", "Pick", "format_named", "pick_format"]

Course: TypeAlias = Callable[[Flow], Reading[None]]
_THINK = Thinking()


@dataclass(frozen=True, slots=True)
class Format:
    """One row."""

    name: str
    course: Course
    """Reads a whole output."""
    signs: Sequence[Sequence[str]] = ()
    """A template is of this family if it contains all texts of one member."""
    architectures: Sequence[str] = ()
    """Beginnings of architecture names that decide where no template does."""
    think: tuple[str, str] = ("", "")
    """Markers of the thinking part; ("", "") = none."""
    tools: bool = True
    """Whether it has a way to write calls."""
    markers: Sequence[str] = ()
    """Control tokens of the family: they are text here, although they may be special tokens."""
    prompt_ends: Sequence[str] = field(default=())
    """Ends of a prompt (whitespace aside) after which the output begins inside the thinking."""


_INNER: Mapping[str, Sequence[str]] = {
    "gemma4": ("<tool_call|>", '<|"|>', "<|channel>"),
    "deepseek_v3": (
        "<｜tool▁calls▁end｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁sep｜>",
    ),
    "deepseek_v32": ("｜DSML｜",),
    "deepseek_v4": ("｜DSML｜",),
    "deepseek_v41": ("｜DSML｜",),
    "kimi_k2": (
        "<|tool_calls_section_end|>",
        "<|tool_call_begin|>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
    ),
    "mistral": ("[ARGS]", "[CALL_ID]"),
    "glm": ("</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    "minimax_m2": ("</minimax:tool_call>",),
    "seed_oss": ("</seed:tool_call>",),
    "step3": (
        "<｜tool_calls_end｜>",
        "<｜tool_call_begin｜>",
        "<｜tool_call_end｜>",
        "<｜tool_sep｜>",
    ),
    "qwen_xml": ("</tool_call>",),
    "hermes": ("</tool_call>",),
    "nemotron": ("</TOOLCALL>",),
    "cohere": ("<|END_ACTION|>",),
    "phi4_mini": ("<|/tool_call|>",),
    "internlm": ("<|action_start|>", "<|plugin|>", "<|action_end|>"),
    "olmo3": ("</function_calls>",),
    "lfm2": ("<|tool_call_end|>",),
    "tool_calls_tag": ("</tool_calls>",),
    "llama4_pythonic": ("<|python_end|>",),
}
"""Control tokens that appear only inside or after calls."""


def _plain(name: str, flow: PlainFlow, *signs: Sequence[str], archs: Sequence[str] = ()) -> Format:
    thinking = flow.thinking
    think = thinking.pairs[0] if thinking is not None else ("", "")
    ends = [start for start, _ in thinking.pairs] if thinking is not None else []
    has_tools = flow.reader is not None or flow.bare_reader is not None
    pairs = [mark for pair in thinking.pairs for mark in pair] if thinking is not None else []
    markers = [*flow.openers, *flow.silent, *pairs, *_INNER.get(name, ())]
    return Format(name, flow, signs, archs, think, has_tools, markers, ends)


def _dsml(name: str, space: str, section: str, sign: str) -> Format:
    bar = "｜DSML｜" + space
    reader = InvokeTags(bar, f"</{bar}{section}>")
    flow = PlainFlow((f"<{bar}{section}>",), reader, _THINK, strips=True)
    return _plain(name, flow, (sign,))


_DEEPSEEK = DeepSeekCalls()
_TOOL_CALL = "<tool_call>"
_STEP3_BETWEEN = ("<｜tool_call_begin｜>", "function", "<｜tool_sep｜>", "<｜tool_call_end｜>")
FORMATS: Sequence[Format] = (
    Format(
        "harmony",
        harmony_flow,
        (("<|channel|>", "<|message|>"),),
        ("GptOss",),
        ("<|channel|>analysis<|message|>", "<|end|>"),
        markers=(
            "<|start|>",
            "<|channel|>",
            "<|constrain|>",
            "<|message|>",
            "<|end|>",
            "<|call|>",
            "<|return|>",
        ),
    ),
    Format(
        "kimi_k3",
        xtml_flow,
        (("<|open|>", "<|sep|>"),),
        ("KimiK3",),
        ("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
        markers=("<|open|>", "<|close|>", "<|sep|>"),
        prompt_ends=("<|open|>think<|sep|>",),
    ),
    _plain(
        "gemma4",
        PlainFlow(
            ("<|tool_call>",), read_gemma, Thinking((("<|channel>thought\n", "<channel|>"),))
        ),
        ("<|tool_call>", '<|"|>'),
        archs=("Gemma4",),
    ),
    _dsml("deepseek_v32", "", "function_calls", "｜DSML｜function_calls"),
    _dsml("deepseek_v4", "", "tool_calls", "｜DSML｜tool_calls"),
    _dsml("deepseek_v41", " ", "calls", "｜DSML｜ calls"),
    _plain(
        "deepseek_v3",
        PlainFlow((_DEEPSEEK.opener,), _DEEPSEEK, _THINK),
        ("<｜tool▁calls▁begin｜>",),
        archs=("Deepseek",),
    ),
    _plain(
        "kimi_k2",
        PlainFlow(("<|tool_calls_section_begin|>",), read_kimi, _THINK),
        ("<|tool_calls_section_begin|>",),
        archs=("KimiK2", "Kimi"),
    ),
    _plain(
        "mistral",
        PlainFlow(
            ("[TOOL_CALLS]",),
            read_mistral,
            Thinking((("[THINK]", "[/THINK]"), ("<think>", "</think>"))),
        ),
        ("[TOOL_CALLS]",),
        ("[AVAILABLE_TOOLS]",),
        archs=("Ministral", "Mistral3"),
    ),
    _plain(
        "glm",
        PlainFlow((_TOOL_CALL,), read_glm, _THINK, strips=True),
        ("<arg_key>",),
        archs=("Glm4Moe", "Glm5"),
    ),
    _plain(
        "minimax_m2",
        PlainFlow(
            ("<minimax:tool_call>",), InvokeTags("", "</minimax:tool_call>"), _THINK, strips=True
        ),
        ("<minimax:tool_call>",),
        archs=("MiniMaxM2",),
    ),
    _plain(
        "seed_oss",
        PlainFlow(
            ("<seed:tool_call>",),
            FunctionTags("</seed:tool_call>"),
            Thinking((("<seed:think>", "</seed:think>"),)),
            strips=True,
        ),
        ("<seed:tool_call>",),
        archs=("SeedOss",),
    ),
    _plain(
        "step3",
        PlainFlow(
            ("<｜tool_calls_begin｜>",),
            InvokeTags("steptml:", "<｜tool_calls_end｜>", _STEP3_BETWEEN),
            _THINK,
            strips=True,
        ),
        ("steptml:invoke",),
        archs=("Step3",),
    ),
    _plain(
        "qwen_xml",
        PlainFlow(
            (_TOOL_CALL, "<function="), FunctionTags(), Thinking(calls_inside=True), strips=True
        ),
        (_TOOL_CALL, "<function="),
        archs=("Qwen3_5", "Qwen3Next", "Qwen3_8"),
    ),
    _plain(
        "nemotron",
        PlainFlow(("<TOOLCALL>",), JsonCalls("</TOOLCALL>"), _THINK, strips=True),
        ("<TOOLCALL>",),
        archs=("DeciLM", "Nemotron"),
    ),
    _plain(
        "cohere",
        PlainFlow(
            ("<|START_ACTION|>",),
            JsonCalls("<|END_ACTION|>"),
            Thinking((("<|START_THINKING|>", "<|END_THINKING|>"),)),
            strips=True,
            silent=("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
        ),
        ("<|START_ACTION|>",),
        archs=("Cohere",),
    ),
    _plain(
        "phi4_mini",
        PlainFlow(("<|tool_call|>",), JsonCalls("<|/tool_call|>"), None),
        ("<|/tool_call|>",),
    ),
    _plain(
        "granite3",
        PlainFlow(("<|tool_call|>", "<tool_call>"), JsonCalls(), _THINK, strips=True),
        ("<|tool_call|>",),
        archs=("Granite",),
    ),
    _plain(
        "internlm",
        PlainFlow(("<|action_start|><|plugin|>",), JsonCalls("<|action_end|>"), _THINK),
        ("<|action_start|>",),
        archs=("InternLM",),
    ),
    _plain(
        "olmo3",
        PlainFlow(
            ("<function_calls>",), PythonCalls("</function_calls>", lines=True), _THINK, strips=True
        ),
        ("<function_calls>",),
        archs=("Olmo3",),
    ),
    _plain(
        "lfm2",
        PlainFlow(("<|tool_call_start|>",), PythonCalls("<|tool_call_end|>"), _THINK),
        ("<|tool_call_start|>",),
        archs=("Lfm2",),
    ),
    _plain(
        "tool_calls_tag",  # Hunyuan, Jamba, MiniMax M1
        PlainFlow(("<tool_calls>",), JsonCalls("</tool_calls>"), _THINK, strips=True),
        ("<tool_calls>",),
        archs=("HunYuan", "Jamba", "MiniMax"),
    ),
    _plain(
        "hermes",  # Qwen2.5, Qwen3, ERNIE, Granite 4, SmolLM3 and many finetunes
        PlainFlow((_TOOL_CALL,), FunctionTags(), _THINK, strips=True),
        (_TOOL_CALL,),
        archs=("Qwen2", "Qwen3", "Ernie"),
    ),
    _plain(
        "llama4_pythonic",
        PlainFlow(
            ("<|python_start|>",),
            PythonCalls("<|python_end|>"),
            bare="[",
            bare_reader=PythonCalls(offered_only=True),
        ),
        ("<|python_start|>",),
        ("[func_name1(",),
        archs=("Llama4",),
    ),
    _plain(
        "llama3_json",
        PlainFlow(("<|python_tag|>",), read_bare_json, bare="{", bare_reader=read_bare_json),
        ("<|python_tag|>",),
        ('"parameters": dictionary of argument name',),
        ("Environment: ipython",),
    ),
    _plain("think", PlainFlow(thinking=_THINK), ("<think>",), ("enable_thinking",)),
    _plain("plain", PlainFlow()),
)
"""Most particular first; the last two write no calls."""


@dataclass(frozen=True, slots=True)
class Pick:
    """A chosen format and why."""

    format: Format
    evidence: str


def format_named(name: str) -> Format:
    """A row by name. Raises KeyError listing the known ones."""
    for row in FORMATS:
        if row.name == name:
            return row
    raise KeyError(", ".join(row.name for row in FORMATS))


def pick_format(template: str | None, architecture: str) -> Pick:
    """The format of a model, by its template's text, else by its architecture."""
    for row in FORMATS:
        for sign in row.signs:
            if template is not None and all(text in template for text in sign):
                shown = " and ".join(repr(text) for text in sign)
                return Pick(row, f"the chat template contains {shown}")
    if template is None or "tools" in template:
        for row in FORMATS:
            if any(architecture.startswith(begin) for begin in row.architectures):
                return Pick(row, f"the architecture is {architecture}")
    return Pick(FORMATS[-1], "neither template nor architecture shows calls or thinking")
