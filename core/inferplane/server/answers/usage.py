"""Token counts and timings of a request, as answers tell them."""

from __future__ import annotations

import time

from inferplane.server.generation import Generation

__all__ = ["completion_tokens", "timings", "usage"]


def completion_tokens(generation: Generation) -> int:
    """Output tokens of all choices so far."""
    return sum(choice.text.num_tokens for choice in generation.choices)


def usage(generation: Generation, *, hidden_tokens: int = 0) -> dict[str, object]:
    """The `usage` object. A prompt counts once, however many choices it has.

    `hidden_tokens` were made only because the engine makes at least one.
    """
    n = generation.order.params.n
    prompt = sum(len(one.ids) for one in generation.order.prompts)
    cached = sum(choice.cached_tokens for choice in generation.choices[::n])
    made = completion_tokens(generation) - hidden_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": made,
        "total_tokens": prompt + made,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {
            "reasoning_tokens": sum(choice.reasoning_tokens for choice in generation.choices)
        },
    }


def timings(generation: Generation) -> dict[str, float]:
    """The `timings` object: milliseconds of the first choice, rate over all."""
    first = generation.choices[0]
    began = generation.order.began
    if first.first_s is None:
        return {"queue_ms": 0.0, "prefill_ms": 0.0, "ttft_ms": 0.0, "decode_ms": 0.0}
    last = max(choice.last_s for choice in generation.choices)
    made = completion_tokens(generation)
    total = time.monotonic() - began
    return {
        "queue_ms": round(first.queue_s * 1e3, 3),
        "prefill_ms": round(first.prefill_s * 1e3, 3),
        "ttft_ms": round((first.first_s - began) * 1e3, 3),
        "decode_ms": round((last - first.first_s) * 1e3, 3),
        "cached_tokens": first.cached_tokens,
        "tokens_per_second": round(made / total, 3) if total > 0 else 0.0,
    }
