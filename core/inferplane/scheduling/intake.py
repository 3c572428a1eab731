"""Whether a request may enter at all, and what the scheduler must know of it."""

from __future__ import annotations

from collections.abc import Callable

from inferplane.errors import RequestError
from inferplane.interfaces import StepShape
from inferplane.request import Request
from inferplane.sampling_params import SamplingParams
from inferplane.scheduling.admission import most_positions
from inferplane.scheduling.block_table import blocks_for
from inferplane.scheduling.sequence import Sequence
from inferplane.scheduling.state import SchedulerState

__all__ = ["make_sequence", "needs_host_work"]


def needs_host_work(sampling: SamplingParams) -> bool:
    """Whether the device cannot go on before the host has seen the last token."""
    return sampling.penalised or any(len(words) > 1 for words in sampling.bad_words_ids)


def make_sequence(
    state: SchedulerState, request: Request, now: float, host_bound: Callable[[Request], bool]
) -> Sequence:
    """A waiting sequence for the request.

    Raises RequestError: `context_length_exceeded`, `capacity_exceeded` for what could never run,
    `queue_full` for what could run another time.
    """
    sampling = request.sampling
    max_len = _max_len(state, request)
    unresumable = _check_capacity(state, request, max_len)
    _check_queue(state, len(request.prompt_ids))  # a refusal is quick: nothing is made before it
    eos = frozenset(() if sampling.ignore_eos else request.eos_ids)
    timeout = state.settings.queue_timeout_s
    sequence = Sequence(
        request,
        arrival_s=now,
        token_ids=list(request.prompt_ids),
        max_len=max_len,
        order=state.next_order(),
        eos_ids=eos,
        stop_ids=eos | frozenset(sampling.stop_token_ids),
        deadline_s=None if request.deadline_s is None else now + request.deadline_s,
        queue_deadline_s=now + timeout if timeout else None,
        host_bound=host_bound(request),
        unresumable=unresumable,
    )
    sequence.queue_key = (0, *state.policy.queue_key(sequence, 0))
    return sequence


def _max_len(state: SchedulerState, request: Request) -> int:
    """Most tokens it may have: prompt and output, within the context."""
    prompt, context = len(request.prompt_ids), state.limits.max_model_len
    asked = request.sampling.max_tokens
    if not prompt:
        raise RequestError("out_of_range", "the prompt is empty: give at least one token", "prompt")
    if prompt + (not request.pooling) > context:
        raise RequestError(
            "context_length_exceeded",
            f"the prompt has {prompt} tokens and {asked or 1} are requested, but the context holds "
            f"{context}: shorten the prompt",
            "prompt",
        )
    if request.pooling:
        return prompt
    return context if asked is None else min(context, prompt + max(1, asked))


def _check_capacity(state: SchedulerState, request: Request, max_len: int) -> bool:
    """Refuse what no empty engine could run to its end; returns `Sequence.unresumable`."""
    limits, blocks = state.limits, state.blocks
    prompt = len(request.prompt_ids)
    most = most_positions(prompt, max_len)
    needed = blocks.worst_case(most)
    if needed > blocks.usable:
        raise RequestError(
            "capacity_exceeded",
            f"{prompt} prompt tokens and {max_len} in all need "
            f"{needed} KV blocks, the device has {blocks.usable}: lower max_tokens or shorten the "
            "prompt",
            "prompt",
        )
    unresumable = False
    whole = request.pooling and not state.features.chunked_pooling
    if limits.chunked and not whole:
        fits = _exists(state, limits.chunk_multiple, most) or _exists(state, 1, most)
    else:
        fits = prompt <= limits.max_tokens and _exists(state, prompt, prompt)
        unresumable = most > limits.max_tokens or not _exists(state, most, most)
    if not fits:
        raise RequestError(
            "capacity_exceeded",
            f"a prompt of {prompt} tokens must be computed in one step here, "
            f"which holds {limits.max_tokens} tokens or less: shorten the prompt",
            "prompt",
        )
    return unresumable


def _exists(state: SchedulerState, num_tokens: int, context: int) -> bool:
    """Whether the device runs one sequence's chunk of that size alone."""
    if state.shapes is None:
        return True
    blocks = blocks_for(context, state.blocks.block_size)
    return state.shapes.admits(StepShape(num_tokens, 1, 0, num_tokens, context, blocks))


def _check_queue(state: SchedulerState, num_tokens: int) -> None:
    waiting, settings = state.waiting, state.settings
    if len(waiting) >= state.limits.max_waiting:
        raise RequestError(
            "queue_full", f"{len(waiting)} requests are waiting, which is the limit: try later"
        )
    most = settings.max_waiting_tokens
    if most and len(waiting) and waiting.num_tokens + num_tokens > most:
        raise RequestError(
            "queue_full",
            f"{waiting.num_tokens} tokens are waiting and the limit is {most}: try later",
        )
