"""A tokenizer as the grammar library wants it: the bytes of every token, and which ones end."""

from __future__ import annotations

from collections.abc import Sequence

from llguidance import LLTokenizer, TokenizerWrapper

from inferplane.tokenization.tokenizer import Tokenizer

__all__ = ["grammar_vocabulary"]


class _Tokens:
    """What `TokenizerWrapper` asks of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer, eos_ids: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.eos_token_id = eos_ids[0] if eos_ids else 0
        self.bos_token_id = tokenizer.bos_id
        self.tokens = [tokenizer.token_bytes(id) for id in range(tokenizer.vocab_size)]
        self.special_token_ids = sorted(tokenizer.special_ids)

    def __call__(self, data: bytes) -> list[int]:
        return self.tokenizer.encode(data.decode("utf-8", "replace"))


def grammar_vocabulary(tokenizer: Tokenizer, width: int, eos_ids: Sequence[int]) -> LLTokenizer:
    """Takes about a second for 50,000 tokens. `width` is that of the logits."""
    return LLTokenizer(
        TokenizerWrapper(_Tokens(tokenizer, eos_ids)),
        n_vocab=max(width, tokenizer.vocab_size),
        eos_token=list(eos_ids) or None,
    )
