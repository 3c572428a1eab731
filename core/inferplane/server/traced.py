"""From a generation that has ended to what traces tell of it."""

from __future__ import annotations

from inferplane.server.answers.usage import completion_tokens
from inferplane.server.generation import Generation
from inferplane.server.tracing import Generated

__all__ = ["generated_of"]


def generated_of(model: str, generation: Generation, finish: tuple[str, ...]) -> Generated | None:
    """The facts; None where nothing was admitted."""
    if not generation.choices:
        return None
    first, order = generation.choices[0], generation.order
    return Generated(
        model,
        order.began,
        first.queue_s,
        first.prefill_s,
        first.first_s,
        first.last_s,
        sum(len(prompt.ids) for prompt in order.prompts),
        sum(choice.cached_tokens for choice in generation.choices[:: order.params.n]),
        completion_tokens(generation),
        finish,
    )
