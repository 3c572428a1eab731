"""A vocabulary of bytes and pairs for the simulated engine, and grammars over it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import cache
from typing import Any, ParamSpec, TypeVar

import msgspec
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from inferplane.engine.grammars import Grammars
from inferplane.sampling_params import Grammar

__all__ = ["ENDS", "allows", "drawn_grammars", "letter_grammars"]

ENDS = (5, 6)
"""Ids that end an output."""
_BYTES = 256
_SCHEMA = {
    "type": "object",
    "properties": {
        "a": {"type": "integer", "minimum": 0, "maximum": 999},
        "b": {"enum": ["x", "yes", None]},
        "c": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["a", "b"],
    "additionalProperties": False,
}
_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Letters:
    """What the grammar library asks of a tokenizer."""

    eos_token_id = ENDS[0]
    bos_token_id = None
    special_token_ids = list(ENDS)

    def __init__(self, width: int) -> None:
        singles = [bytes((number,)) for number in range(_BYTES)]
        pairs = [bytes((97 + number % 26, 97 + number // 26)) for number in range(width - _BYTES)]
        self.tokens = singles + pairs
        for end in ENDS:
            self.tokens[end] = b"<end %d>" % end

    def __call__(self, data: bytes) -> list[int]:
        return list(data)


class _AtOnce(Executor):
    """Does the work where it is handed in, so that a seed's run does not depend on threads."""

    def submit(self, work: Callable[_P, _T], /, *args: _P.args, **named: _P.kwargs) -> Future[_T]:
        """A future that is done."""
        future: Future[_T] = Future()
        try:
            future.set_result(work(*args, **named))
        except Exception as failure:
            future.set_exception(failure)
        return future


@cache
def _vocabulary(width: int) -> LLTokenizer:
    wrapped: Any = TokenizerWrapper(_Letters(width))
    return LLTokenizer(wrapped, n_vocab=width, eos_token=list(ENDS))


@cache
def drawn_grammars() -> tuple[Grammar, ...]:
    """Short and long, finite and endless."""
    texts = [
        LLMatcher.grammar_from_regex(pattern)
        for pattern in ("[a-z]{3,12}", "(ab|cd)+x", "[0-9]{2}(-[0-9]{2}){1,20}", "yes|no")
    ]
    texts.append(LLMatcher.grammar_from_json_schema(msgspec.json.encode(_SCHEMA).decode()))
    return tuple(Grammar(text=text) for text in texts)


def letter_grammars(width: int) -> Grammars:
    """Grammars of one engine over this vocabulary; `width` = number of logits."""
    return Grammars(lambda: _vocabulary(width), width, _AtOnce())


def allows(grammar: Grammar, tokens: list[int], width: int) -> bool:
    """Whether an output may begin like that."""
    matcher = LLMatcher(_vocabulary(width), grammar.text, log_level=0)
    return all(matcher.consume_token(token) for token in tokens)
