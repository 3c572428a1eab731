"""Requests as a seed names them, and what each would say if it were alone."""

from __future__ import annotations

from random import Random

from inferplane.request import Request
from inferplane.sampling_params import SamplingParams
from inferplane.testing.simulation.actions import Add
from inferplane.testing.simulation.knobs import Knobs
from inferplane.testing.simulation.oracle import EOS, STOP_ID, live_alone

__all__ = ["Arrivals"]

_STREAM = 2039
"""Tokens that prompts take their own parts from."""
_DOCUMENT = 400


class Arrivals:
    """Makes requests; what many ask alike is made once."""

    def __init__(self, knobs: Knobs) -> None:
        self._knobs = knobs
        plain = range(3, 3 + knobs.vocabulary)
        self._stream = Random(-1).choices(plain, k=_STREAM)
        self._documents = [
            rng.choices(plain, k=_DOCUMENT) for rng in map(Random, range(knobs.documents))
        ]
        self._sampling: dict[tuple[int, bool, bool], SamplingParams] = {}
        self._twins: dict[tuple[object, ...], tuple[list[int], list[int]]] = {}
        """Tokens and chains by what decides them."""

    def request(self, action: Add) -> Request:
        """The request that an action stands for."""
        shared = self._documents[action.document % len(self._documents)] if self._documents else []
        start = action.seed * 2654435761 % _STREAM
        own = self._stream[start : start + action.own]
        while len(own) < action.own:
            own += self._stream[: action.own - len(own)]
        wishes = (action.max_tokens, action.penalised, action.prompt_logprobs)
        sampling = self._sampling.get(wishes)
        if sampling is None:
            self._sampling[wishes] = sampling = SamplingParams(
                max_tokens=action.max_tokens,
                stop_token_ids=(STOP_ID,),
                presence_penalty=1.0 if action.penalised else 0.0,
                prompt_logprobs=0 if action.prompt_logprobs else None,
            )
        return Request(
            request_id=action.name,
            prompt_ids=(*shared[: action.shared], *own),
            sampling=sampling,
            eos_ids=(EOS,),
            priority=action.priority,
            cache_domain=b"tenant-%d" % action.tenant,
            deadline_s=action.deadline_s,
            pooling=action.pooling,
        )

    def alone(self, request: Request, max_len: int) -> tuple[list[int], list[int]]:
        """Tokens and chains of its solo run."""
        key = (request.prompt_ids, request.cache_domain, request.pooling, max_len)
        found = self._twins.get(key)
        if found is None:
            knobs = self._knobs
            found = live_alone(request, max_len, knobs.vocabulary, knobs.stop_every)
            self._twins[key] = found
        return found
