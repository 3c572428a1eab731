"""What a request must satisfy before the scheduler sees it: the last check of every number.

The front end has checked the same and worded it for users; here nothing may crash a device.
"""

from __future__ import annotations

import math

from inferplane.errors import RequestError
from inferplane.interfaces import SamplerCaps, SamplingParam
from inferplane.media import MediaItem
from inferplane.request import Request
from inferplane.sampling_params import SamplingParams, Thinking

__all__ = ["Admission", "beyond_device", "refused_params"]


class Admission:
    """Checks requests against one device and one vocabulary."""

    def __init__(
        self,
        caps: SamplerCaps,
        plugin: str,
        vocab_size: int,
        *,
        generates: bool = True,
        image_token: int | None = None,
    ) -> None:
        """`generates` False: the model yields vectors and scores alone; `image_token` None: it
        takes no pictures.
        """
        self.image_token = image_token
        self.generates = generates
        self.caps = caps
        self.plugin = plugin
        self.vocab_size = vocab_size

    def check(self, request: Request) -> None:
        """Raises RequestError naming the field at fault."""
        if not request.prompt_ids:
            raise RequestError("invalid_body", "the prompt has no tokens", "prompt")
        if not (self.generates or request.pooling):
            raise RequestError("unsupported_feature", "this model does not generate text", "prompt")
        self._check_ids(request.prompt_ids, "prompt")
        if request.items:
            self._check_pictures(request.items, request.prompt_ids)
        self._check_ids(request.eos_ids, "eos_ids")
        params = request.sampling
        _check_numbers(params)
        self._check_ids(tuple(params.logit_bias or ()), "logit_bias")
        self._check_ids(params.stop_token_ids, "stop_token_ids")
        if params.allowed_token_ids is not None:
            if not params.allowed_token_ids:
                raise RequestError("out_of_range", "no token is allowed", "allowed_token_ids")
            self._check_ids(params.allowed_token_ids, "allowed_token_ids")
        for word in params.bad_words_ids:
            if not word:
                raise RequestError("out_of_range", "a bad word has no tokens", "bad_words")
            self._check_ids(word, "bad_words")
        if params.thinking is not None:
            self._check_thinking(params.thinking)
        self._check_device(params)

    def _check_pictures(self, items: tuple[MediaItem, ...], prompt: tuple[int, ...]) -> None:
        """Each begins and ends with a placeholder, after the one before it."""
        if self.image_token is None:
            raise RequestError("unsupported_feature", "this model takes no pictures", "prompt")
        free = 0
        for index, item in enumerate(items):
            inside = free <= item.offset < item.end <= len(prompt)
            ends = (prompt[item.offset], prompt[item.end - 1]) if inside else ()
            if any(token != self.image_token for token in ends) or not (inside and item.arrays):
                raise RequestError(
                    "out_of_range",
                    f"picture {index} stands at [{item.offset}, {item.end}) of {len(prompt)} "
                    f"tokens: that must begin and end with token {self.image_token}, after the "
                    "picture before it",
                    "prompt",
                )
            free = item.end

    def _check_thinking(self, limit: Thinking) -> None:
        name = "thinking_token_budget"
        if limit.budget < 0 or not limit.end:
            raise RequestError(
                "out_of_range", f"{name} {limit.budget}: needs 0 or more, and an end marker", name
            )
        self._check_ids((*limit.start, *limit.end), name)

    def _check_ids(self, ids: tuple[int, ...], field: str) -> None:
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            wrong = next(i for i in ids if not 0 <= i < self.vocab_size)
            raise RequestError(
                "token_out_of_vocabulary",
                f"token id {wrong} is not in [0, {self.vocab_size})",
                field,
            )

    def _check_device(self, params: SamplingParams) -> None:
        beyond = beyond_device(params, self.caps)
        if not self.caps.host_rows and beyond:
            refused: str = beyond[0]
        elif params.prompt_logprobs is not None and "prompt_logprobs" not in self.caps.params:
            refused = "prompt_logprobs"
        elif (params.prompt_logprobs or 0) > self.caps.max_logprobs:
            raise RequestError(
                "out_of_range",
                f"prompt_logprobs {params.prompt_logprobs} is above {self.caps.max_logprobs}, "
                f"the most that plugin {self.plugin} gives",
                "prompt_logprobs",
            )
        else:
            return
        raise RequestError(
            "unsupported_parameter",
            f"the sampler of plugin {self.plugin} lacks {refused} and has no host fallback",
            _FIELDS.get(refused, refused),
        )


def beyond_device(params: SamplingParams, caps: SamplerCaps) -> list[SamplingParam]:
    """What this request asks of sampling that the device's own sampler does not obey."""
    warm = not params.greedy
    top_k_ok = caps.max_top_k is None or 0 < params.top_k <= caps.max_top_k
    bias = bool(params.logit_bias or params.min_tokens or params.bad_words_ids)
    masks = (params.allowed_token_ids, params.grammar, params.thinking)
    asked: tuple[tuple[SamplingParam, bool], ...] = (
        ("temperature", warm),
        ("seed", warm),
        ("top_p", warm and params.top_p < 1.0),
        ("min_p", warm and params.min_p > 0.0),
        ("penalties", params.penalised),
        ("bias", bias),
        ("bitmask", any(mask is not None for mask in masks)),
    )
    beyond = [name for name, used in asked if used and name not in caps.params]
    if warm and ((params.top_k and "top_k" not in caps.params) or not top_k_ok):
        beyond.append("top_k")
    if params.logprobs is not None and (
        "logprobs" not in caps.params or params.logprobs > caps.max_logprobs
    ):
        beyond.append("logprobs")
    return beyond


def refused_params(caps: SamplerCaps) -> tuple[str, ...]:
    """Parameters this device can neither obey nor hand to the host."""
    refused = [] if caps.host_rows else [p for p in _ALL if p not in caps.params]
    if "prompt_logprobs" not in caps.params and "prompt_logprobs" not in refused:
        refused.append("prompt_logprobs")
    return tuple(refused)


_ALL: tuple[SamplingParam, ...] = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "seed",
    "logprobs",
    "prompt_logprobs",
    "penalties",
    "bias",
    "bitmask",
)
_FIELDS = {"penalties": "repetition_penalty", "bias": "logit_bias", "bitmask": "allowed_token_ids"}


def _check_numbers(params: SamplingParams) -> None:
    checks = (
        ("temperature", params.temperature, 0.0, 100.0),
        ("top_p", params.top_p, 0.0, 1.0),
        ("min_p", params.min_p, 0.0, 1.0),
        ("top_k", params.top_k, 0, 2**31 - 1),
        ("presence_penalty", params.presence_penalty, -100.0, 100.0),
        ("frequency_penalty", params.frequency_penalty, -100.0, 100.0),
        ("repetition_penalty", params.repetition_penalty, 1e-6, 100.0),
        ("min_tokens", params.min_tokens, 0, 2**31 - 1),
        ("max_tokens", params.max_tokens, 1, 2**31 - 1),
        ("logprobs", params.logprobs, 0, 10_000),
        ("prompt_logprobs", params.prompt_logprobs, 0, 10_000),
    )
    for name, value, low, high in checks:
        if value is not None and not low <= value <= high:  # NaN fails too
            raise RequestError("out_of_range", f"{name} {value} is not in [{low}, {high}]", name)
    if not all(math.isfinite(value) for value in (params.logit_bias or {}).values()):
        raise RequestError("out_of_range", "a bias is not a finite number", "logit_bias")
