"""Text from ids as they come: whole characters only, in time linear in the ids.

The deltas of a sequence, joined, are the text that decoding all its ids at once gives.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Collection, Iterable, Sequence

from tokenizers import Tokenizer as Backend

from inferplane.tokenization.tokenizer import Tokenizer

__all__ = ["Detokenizer"]

_Utf8 = getincrementaldecoder("utf-8")
_TAIL_TOKENS = 8
"""Enough of a prompt to know a character it leaves unfinished: at most three bytes are pending."""


class Detokenizer:
    """The text that follows a prompt, piece by piece.

    A character that the prompt's last tokens began is finished by the first output tokens.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int] = (),
        skip_special_tokens: bool = True,
        markers: Collection[int] = (),
    ) -> None:
        """Special tokens that are `markers` are shown in any case."""
        self.tokenizer = tokenizer
        special = tokenizer.special_ids.difference(markers)
        self.hidden = special if skip_special_tokens else frozenset[int]()
        shown = next((True for id in prompt_ids if id not in self.hidden), False)
        spelling = tokenizer.spelling
        self._drop_space = spelling is not None and spelling.drops_first_space and not shown
        self._utf8 = _Utf8("replace")
        self._window: _Window | None = None
        if spelling is None:
            self._window = _Window(tokenizer.backend, prompt_ids, skip_special_tokens)
        elif prompt_ids:
            self.feed(prompt_ids[-_TAIL_TOKENS:])

    def feed(self, ids: Iterable[int]) -> str:
        """Text that these tokens complete; bytes of an unfinished character wait."""
        if self._window is not None:
            return "".join([self._window.feed(id) for id in ids])
        spell = self.tokenizer.token_bytes
        hidden = self.hidden
        data = b"".join([spell(id) for id in ids if id not in hidden])
        return self._begun(self._utf8.decode(data)) if data else ""

    def flush(self) -> str:
        """What is left at the end, U+FFFD for an unfinished character."""
        if self._window is not None:
            return self._window.flush()
        return self._begun(self._utf8.decode(b"", True))

    def _begun(self, text: str) -> str:
        if self._drop_space and text:
            self._drop_space = False
            return text[1:] if text[0] == " " else text
        return text


class _Window:
    """For vocabularies whose text is no sum of tokens: decode a short window, emit what is new."""

    MAX_TOKENS = 32
    """A window that never becomes whole characters is emitted as it is, so time stays linear."""

    def __init__(self, backend: Backend, prompt_ids: Sequence[int], skip_special: bool) -> None:
        self.backend = backend
        self.skip_special = skip_special
        self.ids = list(prompt_ids[-_TAIL_TOKENS:])
        self.read = len(self.ids)

    def feed(self, id: int) -> str:
        self.ids.append(id)
        return self._emit(force=len(self.ids) - self.read > self.MAX_TOKENS)

    def flush(self) -> str:
        return self._emit(force=True)

    def _emit(self, force: bool) -> str:
        old = self.backend.decode(self.ids[: self.read], skip_special_tokens=self.skip_special)
        new = self.backend.decode(self.ids, skip_special_tokens=self.skip_special)
        if not force and (len(new) <= len(old) or new.endswith("�")):
            return ""
        self.ids = self.ids[self.read :] or self.ids
        self.read = len(self.ids)
        return new[len(old) :]
