"""Grammars of running sequences: built beside the step loop, looked up by rows.

A request waits in the queue until its grammar is there; nobody else waits for it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from inferplane.checkpoint import open_checkpoint
from inferplane.model_config import read_model_config
from inferplane.sampling_params import Grammar
from inferplane.scheduling.sequence import Sequence
from inferplane.tokenization.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

    from inferplane.grammar.matcher import GrammarState

__all__ = ["Grammars", "vocabulary_maker"]

_PRISTINE = 64
"""Grammars kept for the next request that wants the same."""


def vocabulary_maker(model: str, width: int) -> Callable[[], LLTokenizer]:
    """Makes the vocabulary of the checkpoint at `model`; `width` is that of the logits."""

    def make() -> LLTokenizer:
        from inferplane.grammar.vocabulary import grammar_vocabulary  # with the library

        checkpoint = open_checkpoint(Path(model))
        tokenizer = load_tokenizer(checkpoint)
        ends = (*read_model_config(checkpoint).eos_ids, *tokenizer.eos_ids)
        return grammar_vocabulary(tokenizer, width, tuple(dict.fromkeys(ends)))

    return make


class Grammars:
    """Of one engine. `vocabulary` makes the library's tokenizer, once, when first needed.

    `pool` is where grammars are built; None = a thread of their own.
    """

    def __init__(
        self, vocabulary: Callable[[], LLTokenizer], width: int, pool: Executor | None = None
    ) -> None:
        self._make_vocabulary = vocabulary
        self._vocabulary: LLTokenizer | None = None
        self._width = width
        self._pool = pool
        self._building: dict[str, Future[LLMatcher]] = {}
        self._pristine: OrderedDict[str, LLMatcher] = OrderedDict()
        self._states: dict[str, GrammarState] = {}
        self.in_use = False
        """Whether any request has a grammar; steps of others look no further."""

    def begin(self, request_id: str, grammar: Grammar) -> None:
        """Have the grammar built for a request that waits."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "grammar")
        self._building[request_id] = self._pool.submit(self._build, grammar.text)
        self.in_use = True

    def _build(self, text: str) -> LLMatcher:
        """In the thread; the library lets others run meanwhile."""
        from llguidance import LLMatcher  # 40 ms that only users of grammars pay

        if self._vocabulary is None:
            self._vocabulary = self._make_vocabulary()
        pristine = self._pristine.get(text)
        if pristine is None:
            pristine = LLMatcher(self._vocabulary, text, log_level=0)
            if pristine.is_error():
                raise ValueError(pristine.get_error())
            self._pristine[text] = pristine
            while len(self._pristine) > _PRISTINE:
                self._pristine.popitem(last=False)
        return pristine.deep_copy()

    def settled(self, sequence_of: Callable[[str], Sequence | None]) -> list[tuple[str, bool]]:
        """(request id, whether its grammar is there) of those whose building ended."""
        if not self._building:
            return []
        ended = [(i, f) for i, f in self._building.items() if f.done()]
        for request_id, future in ended:
            del self._building[request_id]
            sequence = sequence_of(request_id)
            if sequence is not None and future.exception() is None:
                self._states[request_id] = self._state(sequence, future.result())
        return [(i, future.exception() is None) for i, future in ended]

    def _state(self, sequence: Sequence, matcher: LLMatcher) -> GrammarState:
        from inferplane.grammar.matcher import GrammarState  # with the library, see above

        grammar = sequence.request.sampling.grammar
        assert grammar is not None
        return GrammarState(grammar, matcher, sequence.num_prompt_tokens, self._width)

    def state_of(self, request_id: str) -> GrammarState | None:
        """Where a running sequence stands; None without a grammar."""
        return self._states.get(request_id)

    def failed(self) -> list[str]:
        """Requests that met a token their grammar forbids."""
        return [i for i, state in self._states.items() if state.failed]

    def forget(self, request_id: str) -> None:
        """The request has ended."""
        self._states.pop(request_id, None)
        self._building.pop(request_id, None)
        self.in_use = bool(self._building or self._states)
