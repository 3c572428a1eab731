"""From constraints to grammars the engine can trust, through a process that may be killed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256
from threading import Lock

import msgspec

from inferplane.errors import RequestError
from inferplane.grammar.compile_messages import Compiled, Vocabulary
from inferplane.grammar.sources import GrammarSource, check_source, pointer_of
from inferplane.limited_process import LimitedProcess, LimitExceeded

__all__ = ["GrammarCompiler"]

_COMPILE_S = 4.0
"""Wall clock; the process itself may burn two seconds of processor."""
_CACHE_BYTES = 4 * 1024 * 1024


class GrammarCompiler:
    """Checks and compiles constraints of one model. Safe to share between threads.

    Good grammars are remembered, within a bound in bytes for each tenant.
    """

    def __init__(self, model: str, width: int, eos_ids: Sequence[int]) -> None:
        """`model` is the path of the checkpoint, `width` that of the logits. Starts nothing yet."""
        greeting = Vocabulary(model, width, tuple(eos_ids))
        self._process = LimitedProcess(
            "inferplane.grammar.compile_child",
            msgspec.msgpack.encode(greeting),
            deadline_s=_COMPILE_S,
        )
        self._lock = Lock()
        self._held: dict[str, OrderedDict[bytes, str]] = {}
        self._answers = msgspec.msgpack.Decoder(Compiled)

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def compile(self, source: GrammarSource, tenant: str = "") -> str:
        """The grammar's text. Blocks up to seconds, so event loops call it in a thread.

        Raises RequestError: `invalid_schema`, `unsupported_schema_keyword` with a JSON pointer,
        `invalid_grammar` or `grammar_too_complex`.
        """
        check_source(source)
        message = msgspec.msgpack.encode(source)
        digest = sha256(message).digest()
        with self._lock:
            held = self._held.setdefault(tenant, OrderedDict())
            if digest in held:
                held.move_to_end(digest)
                return held[digest]
        text = self._compiled(source, message)
        with self._lock:
            held[digest] = text
            while len(held) > 1 and sum(map(len, held.values())) > _CACHE_BYTES:
                held.popitem(last=False)
        return text

    def _compiled(self, source: GrammarSource, message: bytes) -> str:
        param = source.param
        try:
            answer = self._answers.decode(self._process.call(message))
        except LimitExceeded:
            raise RequestError(
                "grammar_too_complex", f"{param} takes too long or too much memory", param
            ) from None
        if not answer.fault:
            return answer.text
        if answer.keyword:
            at = param + pointer_of(source.value, answer.keyword)
            raise RequestError(
                "unsupported_schema_keyword", f"{at}: the keyword cannot be enforced", at
            )
        if answer.complex:
            raise RequestError("grammar_too_complex", f"{param}: {answer.fault}", param)
        code = "invalid_schema" if source.kind == "json" else "invalid_grammar"
        raise RequestError(code, f"{param}: {answer.fault}", param)
