"""What a user may ask of sampling; bounds are checked where requests are made, once."""

from __future__ import annotations

import msgspec

__all__ = ["Grammar", "SamplingParams", "Thinking"]


class Grammar(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the output must match, compiled and checked by the front end.

    Thinking comes first and is free: the grammar begins after `think_end`.
    """

    text: str
    """In the grammar library's own notation."""
    think_start: tuple[int, ...] = ()
    """Tokens with which an output may begin to think; empty = it cannot."""
    think_end: tuple[int, ...] = ()
    thinking: bool = False
    """The prompt ends inside the thinking."""


class Thinking(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A limit on how much is thought before the answer: beyond it `end` is forced."""

    budget: int
    """Tokens, those of the markers not counted."""
    end: tuple[int, ...]
    start: tuple[int, ...] = ()
    """Tokens with which an output may begin to think; empty = it cannot."""
    begun: bool = False
    """The prompt ends inside the thinking."""


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How tokens are drawn and when generation ends.

    Names and defaults are those of the OpenAI API and its common extensions
    (`docs/http-api.md` lists the accepted ranges).
    """

    n: int = 1
    """Completions of one prompt; child i draws with seed + i."""
    temperature: float = 1.0
    """0 (or below 1e-5) is greedy, ties to the lowest id."""
    top_k: int = 0
    """0 = off."""
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    """None: drawn by the client at submission, so every row has one."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    """Token sequences that must not be completed."""
    max_tokens: int | None = None
    """None = what is left of the context."""
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    """Found by the front end; text is cut before the match."""
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    logprobs: int | None = None
    """Top alternatives per token; 0 = the drawn token alone; None = none."""
    prompt_logprobs: int | None = None
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    grammar: Grammar | None = None
    """The output matches it, whatever else is asked."""
    thinking: Thinking | None = None
    """None = it may think as long as it likes."""

    @property
    def greedy(self) -> bool:
        """Whether drawing is argmax."""
        return self.temperature < 1e-5

    @property
    def penalised(self) -> bool:
        """Whether any penalty is on."""
        return (
            self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
            or self.repetition_penalty != 1.0
        )
