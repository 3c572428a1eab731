"""Compiles grammars in a limited process: the only place where strangers' grammars are built first.

Started with `-m` by `compile.py`. A grammar that kills or stalls this process never reaches the
engine.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
from llguidance import LLMatcher, LLTokenizer, StructTag
from llguidance.gbnf_to_lark import any_to_lark

from inferplane.checkpoint import open_checkpoint
from inferplane.grammar.compile_messages import Compiled, Vocabulary
from inferplane.grammar.sources import JSON_OPTIONS, GrammarSource
from inferplane.grammar.vocabulary import grammar_vocabulary
from inferplane.limited_process import answer_messages
from inferplane.tokenization.tokenizer import load_tokenizer

__all__ = ["main"]

MEMORY_BYTES = 512 * 1024 * 1024
CPU_S = 2
_LIMIT_WORDS = ("fuel", "limit", "too complex", "too many", "too large")
_UNIMPLEMENTED = re.compile(r'Unimplemented keys: \["([^"]*)"')


def _text(source: GrammarSource) -> str:
    """The library's own text of a constraint."""
    value = source.value
    if source.kind == "json":
        optioned = {**value, "x-guidance": JSON_OPTIONS} if isinstance(value, dict) else value
        return LLMatcher.grammar_from_json_schema(msgspec.json.encode(optioned).decode())
    if source.kind == "regex":
        return LLMatcher.grammar_from_regex(value)
    if source.kind == "choice":
        texts = " | ".join(msgspec.json.encode(choice).decode() for choice in value)
        return LLMatcher.grammar_from_lark(f"start: {texts}\n")
    if source.kind == "gbnf":
        return LLMatcher.grammar_from_lark(any_to_lark(value))
    if source.kind == "structural_tag":
        tags = [
            StructTag(
                trigger=tag["trigger"],
                begin=tag["begin"],
                grammar=tag["schema"],
                end=tag["end"],
            )
            for tag in value
        ]
        return LLMatcher.grammar_from_lark(StructTag.to_grammar(tags, assume_special=False))
    return LLMatcher.grammar_from_lark(value)


def _compiled(source: GrammarSource, vocabulary: LLTokenizer) -> Compiled:
    try:
        text = _text(source)
    except (ValueError, AssertionError, KeyError, TypeError):
        return Compiled(fault="it is not well-formed")
    matcher = LLMatcher(vocabulary, text, log_level=0)
    if matcher.is_error():
        fault = matcher.get_error().strip().splitlines()[0]
        found = _UNIMPLEMENTED.search(fault)
        return Compiled(fault=fault[:300], keyword=found[1] if found else "")
    matcher.compute_bitmask()  # the first mask is where explosions show
    if matcher.is_error():
        fault = matcher.get_error().strip().splitlines()[0]
        if any(word in fault.lower() for word in _LIMIT_WORDS):
            return Compiled(fault="it is too complex", complex=True)
        return Compiled(fault="nothing can match it")
    return Compiled(text)


def main() -> None:
    """Answer a Vocabulary, then GrammarSources."""
    encode = msgspec.msgpack.Encoder().encode
    held: list[LLTokenizer] = []

    def handle(message: bytes) -> bytes:
        if held:
            source = msgspec.msgpack.decode(message, type=GrammarSource)
            return encode(_compiled(source, held[0]))
        greeting = msgspec.msgpack.decode(message, type=Vocabulary)
        tokenizer = load_tokenizer(open_checkpoint(Path(greeting.model)))
        held.append(grammar_vocabulary(tokenizer, greeting.width, greeting.eos_ids))
        return encode(Compiled())

    answer: Callable[[bytes], bytes] = handle
    answer_messages(
        answer,
        memory_bytes=MEMORY_BYTES,
        cpu_s=CPU_S,
        out_of_memory=encode(Compiled(fault="it needs too much memory", complex=True)),
        limit_greeting=False,
    )


if __name__ == "__main__":
    main()
