"""From checked fields to SamplingParams: defaults of API and model, and what the device can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inferplane.engine.messages import EngineInfo
from inferplane.sampling_params import SamplingParams
from inferplane.server.context import Serving
from inferplane.server.schema.report import Report
from inferplane.server.served_model import API_DEFAULTS
from inferplane.tokenization.tokenizer import Tokenizer

__all__ = ["check_model_bounds", "check_sampling", "sampling_params"]

_DEVICE_NAMES: Mapping[str, tuple[str, ...]] = {
    "penalties": ("presence_penalty", "frequency_penalty", "repetition_penalty"),
    "bias": ("logit_bias", "min_tokens", "bad_words"),
    "bitmask": ("allowed_token_ids",),
}
"""What devices call a group of fields."""


def check_sampling(found: Mapping[str, Any], report: Report) -> None:
    """Rules between fields that need no model."""
    if found.get("stream_options") is not None and not found.get("stream"):
        report.wrong("conflicting_fields", "stream_options", "stream_options needs stream: true")
    if found.get("stream") and found.get("prompt_logprobs") is not None:
        report.wrong("conflicting_fields", "prompt_logprobs", "prompt_logprobs cannot be streamed")
    longest, least = found.get("max_tokens"), found.get("min_tokens", 0)
    if longest is not None and least > longest:
        report.wrong(
            "out_of_range", "min_tokens", f"min_tokens {least} is above max_tokens {longest}"
        )
    if found.get("top_k") == 0:
        report.notice("clamped", "top_k", "0 is taken as -1, off", to=-1)


def check_model_bounds(found: Mapping[str, Any], info: EngineInfo, report: Report) -> None:
    """Bounds that only the served model knows: ids, and what its device can do."""
    width = info.vocab_size
    for name in ("allowed_token_ids", "stop_token_ids"):
        for index, id in enumerate(found.get(name) or ()):
            if id >= width:
                where = f"{name}.{index}"
                report.wrong(
                    "token_out_of_vocabulary", where, f"{where}: id {id} is not in [0, {width})"
                )
                break
    for key in found.get("logit_bias") or ():
        if int(key) >= width:
            where = f"logit_bias.{key}"
            report.wrong(
                "token_out_of_vocabulary", where, f"{where}: the id is not in [0, {width})"
            )
            break
    for refused in info.refused_params:
        for name in _DEVICE_NAMES.get(refused, (refused,)):
            if found.get(name) is not None:
                report.wrong(
                    "unsupported_parameter",
                    name,
                    f"the sampler of plugin {info.plugin} lacks {name} and has no host fallback",
                )


def sampling_params(
    found: Mapping[str, Any],
    serving: Serving,
    report: Report,
    *,
    max_tokens: int | None,
    logprobs: int | None,
    prompt_logprobs: int | None,
) -> SamplingParams:
    """Everything that drawing needs. Values taken from the model's files are told."""
    defaults = serving.model.defaults

    def value(name: str) -> float:
        if name in found:
            return float(found[name])
        if name in defaults:
            report.warnings.add("model_default", name, value=f"{defaults[name]:g}")
        return float(defaults.get(name, API_DEFAULTS[name]))

    top_k = int(value("top_k"))
    return SamplingParams(
        n=found.get("n", 1),
        temperature=value("temperature"),
        top_k=max(top_k, 0),
        top_p=value("top_p"),
        min_p=value("min_p"),
        seed=found.get("seed"),
        presence_penalty=found.get("presence_penalty", 0.0),
        frequency_penalty=found.get("frequency_penalty", 0.0),
        repetition_penalty=value("repetition_penalty"),
        logit_bias=_bias(found.get("logit_bias")),
        allowed_token_ids=_tuple(found.get("allowed_token_ids")),
        bad_words_ids=_bad_words(serving.model.tokenizer, found.get("bad_words") or ()),
        max_tokens=max_tokens,
        min_tokens=found.get("min_tokens", 0),
        stop=_stops(found.get("stop")),
        stop_token_ids=_tuple(found.get("stop_token_ids")) or (),
        ignore_eos=found.get("ignore_eos", False),
        include_stop_str_in_output=found.get("include_stop_str_in_output", False),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        skip_special_tokens=found.get("skip_special_tokens", True),
        spaces_between_special_tokens=found.get("spaces_between_special_tokens", True),
    )


def _bias(given: Mapping[str, float] | None) -> dict[int, float] | None:
    return {int(key): value for key, value in given.items()} if given else None


def _tuple(given: list[int] | None) -> tuple[int, ...] | None:
    return None if given is None else tuple(given)


def _stops(given: str | list[str] | None) -> tuple[str, ...]:
    if given is None:
        return ()
    return (given,) if isinstance(given, str) else tuple(dict.fromkeys(given))


def _bad_words(tokenizer: Tokenizer, words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Each word as tokens, at the beginning of a text and after a space."""
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        bare = word.lstrip() or word
        for text in (bare, " " + bare):
            if ids := tuple(tokenizer.encode(text)):
                found[ids] = None
    return tuple(found)
