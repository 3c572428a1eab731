"""Ids from text and text from ids: one class over the `tokenizers` library, from any checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import jiter
from tokenizers import Tokenizer as Backend

from inferplane.errors import ModelError
from inferplane.tokenization.gguf import backend_from_gguf
from inferplane.tokenization.spelling import Spelling, spelling_of

if TYPE_CHECKING:
    from inferplane.checkpoint import Checkpoint

__all__ = ["SpecialTokens", "Tokenizer", "load_tokenizer"]


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """What a checkpoint says of its special tokens beside the vocabulary."""

    names: Mapping[str, str] = field(default_factory=dict)
    """`bos_token`, `eos_token`, … -> text; what chat templates read."""
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    pad_id: int | None = None


class Tokenizer:
    """A vocabulary in use. Safe to share between threads.

    Text is decoded from the bytes of the tokens, so it is the same in one piece and in deltas;
    bytes that are no UTF-8 become U+FFFD.
    """

    def __init__(
        self,
        backend: Backend,
        special: SpecialTokens | None = None,
        *,
        tokenizer_class: str = "PreTrainedTokenizerFast",
        model_max_length: int | None = None,
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.special = special if special is not None else SpecialTokens()
        self.tokenizer_class = tokenizer_class
        self.model_max_length = model_max_length
        added = backend.get_added_tokens_decoder()
        self.special_ids = frozenset(id for id, token in added.items() if token.special)
        self.vocab_size = backend.get_vocab_size(with_added_tokens=True)
        self.spelling: Spelling | None = spelling_of(_decoder(backend))
        self._bytes: dict[int, bytes] = {}

    @property
    def bos_id(self) -> int | None:
        """The id that begins a text, if there is one."""
        return self.special.bos_id

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end a text, by the tokenizer's own account."""
        return self.special.eos_ids

    @property
    def special_tokens(self) -> Mapping[str, str]:
        """`bos_token`, `eos_token`, … -> text."""
        return self.special.names

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Ids of `text`; special tokens written in it become their ids.

        Raises ValueError for text with a lone surrogate.
        """
        try:
            return self.backend.encode(text, add_special_tokens=add_special_tokens).ids
        except (TypeError, UnicodeEncodeError):
            raise ValueError("the text holds a lone surrogate, which is not Unicode text") from None

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of `ids`; ids outside the vocabulary have none."""
        if self.spelling is None:
            return self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        shown = self.shown(ids) if skip_special_tokens else ids
        text = b"".join([self.token_bytes(id) for id in shown]).decode("utf-8", "replace")
        return text[1:] if self.spelling.drops_first_space and text[:1] == " " else text

    def shown(self, ids: Iterable[int]) -> list[int]:
        """`ids` without special tokens."""
        hidden = self.special_ids
        return [id for id in ids if id not in hidden]

    def token_bytes(self, id: int) -> bytes:
        """The bytes a token stands for; b"" outside the vocabulary."""
        known = self._bytes.get(id)
        if known is None:
            token = self.backend.id_to_token(id) if 0 <= id < 1 << 31 else None
            known = b"" if token is None else self._spell(token)
            if token is not None:  # so that the memo is never larger than the vocabulary
                self._bytes[id] = known
        return known

    def _spell(self, token: str) -> bytes:
        if self.spelling is None:
            return token.encode("utf-8", "replace")
        return self.spelling.bytes_of(token)

    def token_text(self, id: int) -> str:
        """The text of one token, U+FFFD where its bytes are no whole characters."""
        return self.token_bytes(id).decode("utf-8", "replace")


def _decoder(backend: Backend) -> Mapping[str, object] | None:
    if backend.decoder is None:
        return None
    state: Mapping[str, object] = jiter.from_json(backend.decoder.__getstate__())
    return state


def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer of a checkpoint: its tokenizer.json, or what a GGUF file says of its own.

    Raises ModelError naming the file and what is missing.
    """
    if checkpoint.tokenizer_file is not None:
        return _from_file(checkpoint)
    if "tokenizer.ggml.tokens" in checkpoint.metadata:
        backend, names, eos_ids = backend_from_gguf(checkpoint.metadata, str(checkpoint.root))
        return _finished(backend, names, eos_ids, {})
    raise ModelError(
        f"{checkpoint.root} has no tokenizer: want tokenizer.json beside the weights (save it with "
        "the reference library's save_pretrained) or a GGUF file that holds its tokenizer"
    )


def _from_file(checkpoint: Checkpoint) -> Tokenizer:
    path = checkpoint.tokenizer_file
    try:
        backend = Backend.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for every fault
        raise ModelError(f"{path} is not a tokenizer.json: {error}") from None
    names: dict[str, str] = {}
    for name, value in checkpoint.tokenizer_config.items():
        text = value.get("content") if isinstance(value, Mapping) else value
        if name.endswith("_token") and isinstance(text, str):
            names[name] = text
    return _finished(backend, names, (), checkpoint.tokenizer_config)


def _finished(
    backend: Backend,
    names: Mapping[str, str],
    eos_ids: tuple[int, ...],
    config: Mapping[str, object],
) -> Tokenizer:
    def id_of(name: str) -> int | None:
        return backend.token_to_id(names[name]) if name in names else None

    if not eos_ids and (eos := id_of("eos_token")) is not None:
        eos_ids = (eos,)
    special = SpecialTokens(names, id_of("bos_token"), eos_ids, id_of("pad_token"))
    length = config.get("model_max_length")
    return Tokenizer(
        backend,
        special,
        tokenizer_class=str(config.get("tokenizer_class") or "PreTrainedTokenizerFast"),
        # the reference library writes 1e30 for "not known"
        model_max_length=length if isinstance(length, int) and length < 1 << 40 else None,
    )
