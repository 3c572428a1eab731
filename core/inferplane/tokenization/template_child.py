"""Renders chat templates in a limited process: the only module that runs a model's Jinja.

Started with `-m` by `chat_template.py`. Functions and settings are those that model templates are
written for (the reference library's `chat_template_utils.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import msgspec
from jinja2.sandbox import ImmutableSandboxedEnvironment

from inferplane.limited_process import answer_messages
from inferplane.tokenization.template_messages import Answer, Described, Greeting, Render

__all__ = ["Renderer", "environment", "main"]

MEMORY_BYTES = 256 * 1024 * 1024
CPU_S = 2
_PROBE = "inferplane-probe-of-content"


class _Refused(jinja2.TemplateError):
    """The template called raise_exception."""


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what an assistant wrote, for training; here it only passes it on."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.CallBlock:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_passed")
        block = jinja2.nodes.CallBlock(call, [], [], body)
        block.set_lineno(line)
        return block

    def _passed(self, caller: jinja2.runtime.Macro) -> str:
        return caller()


def environment() -> ImmutableSandboxedEnvironment:
    """The sandbox with what model templates expect."""

    def raise_exception(message: object) -> None:
        raise _Refused(str(message))

    def tojson(
        value: object,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    def strftime_now(pattern: str) -> str:
        return datetime.now().strftime(pattern)

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = tojson
    made.globals.update(raise_exception=raise_exception, strftime_now=strftime_now)
    return made


class Renderer:
    """One compiled template."""

    def __init__(self, greeting: Greeting) -> None:
        self.special_tokens = greeting.special_tokens
        self.picture_mark = greeting.picture_mark
        made = environment()
        self.template = made.from_string(greeting.source)
        names = jinja2.meta.find_undeclared_variables(made.parse(greeting.source))
        self.names = tuple(sorted(names - made.globals.keys()))

    def describe(self) -> Described:
        """Tries which form of content comes out as text."""
        as_string = self._shows(_PROBE)
        as_parts = self._shows([{"type": "text", "text": _PROBE}])
        takes_pictures = self.picture_mark != "" and self._shows_a_picture()
        return Described(self.names, as_string or not as_parts, as_parts, takes_pictures)

    def _shows(self, content: object) -> bool:
        text = self._tried(content)
        return _PROBE in text and "'type'" not in text

    def _shows_a_picture(self) -> bool:
        text = self._tried([{"type": "image"}, {"type": "text", "text": _PROBE}])
        return _PROBE in text and "'type'" not in text and text.count(self.picture_mark) == 1

    def _tried(self, content: object) -> str:
        messages = [{"role": "user", "content": content}]
        return self.render(Render(messages, None, None, True, {})).text

    def render(self, request: Render) -> Answer:
        """The text of one conversation; whatever the template raises becomes part of the answer."""
        try:
            text = self.template.render(
                self.special_tokens
                | request.kwargs
                | {
                    "messages": request.messages,
                    "tools": request.tools,
                    "documents": request.documents,
                    "add_generation_prompt": request.add_generation_prompt,
                }
            )
        except _Refused as refused:
            return Answer(refused=str(refused) or "no reason given")
        except MemoryError:
            return Answer(fault=f"it needs more than {MEMORY_BYTES >> 20} MiB")
        except Exception as error:  # a stranger's program may raise anything
            return Answer(fault=_place(error))
        return Answer(text.encode("utf-8", "replace").decode("utf-8"))


def _place(error: BaseException) -> str:
    """Kind of fault and line of the template, without the values involved."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    kinds: Mapping[type[Exception], str] = {
        jinja2.UndefinedError: "it reads something that is not there",
        jinja2.exceptions.SecurityError: "it does something that the sandbox forbids",
        RecursionError: "it recurses too deeply",
        OverflowError: "it makes something too large",
    }
    said = next((text for kind, text in kinds.items() if isinstance(error, kind)), "it fails")
    return f"{said} in line {line}" if line else said


def main() -> None:
    """Answer a Greeting, then Renders."""
    renderer: list[Renderer] = []
    greetings = msgspec.msgpack.Decoder(Greeting)
    renders = msgspec.msgpack.Decoder(Render)
    encode = msgspec.msgpack.Encoder().encode

    def handle(message: bytes) -> bytes:
        if renderer:
            return encode(renderer[0].render(renders.decode(message)))
        try:
            renderer.append(Renderer(greetings.decode(message)))
            return encode(renderer[0].describe())
        except jinja2.TemplateSyntaxError as error:
            return encode(Described(fault=f"line {error.lineno}: {error.message}"))
        except RecursionError:
            return encode(Described(fault="it is nested too deeply"))

    answer_messages(
        handle,
        memory_bytes=MEMORY_BYTES,
        cpu_s=CPU_S,
        out_of_memory=encode(Answer(fault=f"it needs more than {MEMORY_BYTES >> 20} MiB")),
    )


if __name__ == "__main__":
    main()
