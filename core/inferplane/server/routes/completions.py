"""POST /v1/completions."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from inferplane.sampling_params import SamplingParams
from inferplane.server.answers.completions import CompletionAnswer, CompletionOptions, Echo
from inferplane.server.answers.frames import Head
from inferplane.server.answers.logprobs import TokenNames
from inferplane.server.constraints import grammar_of
from inferplane.server.context import ServerContext, Serving
from inferplane.server.errors import ApiError
from inferplane.server.generation import Generation, Order
from inferplane.server.handling import Asked, finish, handle_json
from inferplane.server.prompts import Prompt, check_characters, check_length, encode, truncated
from inferplane.server.routing import ScopedRoute
from inferplane.server.sampling import check_model_bounds, check_sampling, sampling_params
from inferplane.server.schema.completions import completion_structure
from inferplane.server.schema.report import Report
from inferplane.server.schema.structured import check_constraint
from inferplane.server.schema.tools import ToolUse
from inferplane.tokenization.detokenizer import Detokenizer
from inferplane.tokenization.tokenizer import Tokenizer

__all__ = ["routes"]

_DEFAULT_TOKENS = 16


def routes(context: ServerContext) -> list[ScopedRoute]:
    """The route, with its table of fields."""
    structure = completion_structure(context.limits)

    async def complete(request: Request) -> Response:
        def check(found: Mapping[str, Any], report: Report) -> None:
            _check(found, report, context.limits.sequences)

        async def answer(asked: Asked, serving: Serving) -> Response:
            return await _answer(context, asked, serving)

        return await handle_json(context, structure, request, check, answer)

    return [ScopedRoute("/v1/completions", complete, methods=["POST"], scope="infer")]


def _check(found: Mapping[str, Any], report: Report, most: int) -> None:
    check_sampling(found, report)
    check_constraint(found, report)
    n = found.get("n", 1)
    if found.get("best_of") not in (None, n):
        report.wrong("unsupported_feature", "best_of", "best_of must equal n, if it is sent")
    if found.get("max_tokens") == 0 and not found.get("echo"):
        report.wrong("out_of_range", "max_tokens", "max_tokens 0 needs echo: true")
    prompt = found.get("prompt")
    many = isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)
    made = n * len(prompt) if prompt is not None and many else n
    if made > most:
        report.wrong("too_many_items", "n", f"n x prompts is {made}; at most {most} are made")


async def _answer(context: ServerContext, asked: Asked, serving: Serving) -> Response:
    found, report = asked.found, asked.report
    check_model_bounds(found, serving.info, report)
    max_tokens = found.get("max_tokens")
    params = _params(found, serving, report)
    priority = asked.priority(context)
    report.raise_problems()
    prompts = await _prompts(context, serving, asked, max_tokens)
    for prompt in prompts:
        check_length(prompt, max_tokens, serving)
    if max_tokens is None:
        params = _fitted(params, prompts, serving.info.max_model_len)
    caller = asked.request.scope["state"]["caller"]
    grammar = await grammar_of(
        context,
        serving,
        found,
        ToolUse(),
        serving.model.pick.format,
        report,
        tenant=caller.name,
        thinking=False,
    )
    if grammar is not None:  # a text that is continued has no thinking before it
        params = replace(params, grammar=replace(grammar, think_start=()))
    echoes = _echoes(serving.model.tokenizer, prompts, found) if found.get("echo") else []
    order = Order(
        prompts,
        params,
        asked.request_id,
        caller,
        asked.began,
        priority,
        found.get("cache_salt"),
        asked.deadline_s(),
        [len(echo.text) for echo in echoes],
    )
    generation = Generation(context, serving, order)
    head = Head(
        "cmpl-" + secrets.token_hex(12), "text_completion", asked.model_name, serving.fingerprint
    )
    answer = CompletionAnswer(head, generation, _options(found, serving, echoes))
    return await finish(context, asked, generation, answer)


def _params(found: Mapping[str, Any], serving: Serving, report: Report) -> SamplingParams:
    logprobs = found.get("logprobs")
    scored = found.get("prompt_logprobs")
    if found.get("echo") and logprobs is not None:
        scored = logprobs if scored is None else max(logprobs, scored)
    return sampling_params(
        found,
        serving,
        report,
        max_tokens=max(found.get("max_tokens", _DEFAULT_TOKENS), 1),
        logprobs=logprobs,
        prompt_logprobs=scored,
    )


def _fitted(params: SamplingParams, prompts: Sequence[Prompt], max_len: int) -> SamplingParams:
    """The default length is a default: it gives way to the context."""
    room = max_len - max(len(prompt.ids) for prompt in prompts)
    if params.max_tokens is None or params.max_tokens <= room:
        return params
    return replace(params, max_tokens=room, min_tokens=min(params.min_tokens, room))


async def _prompts(
    context: ServerContext, serving: Serving, asked: Asked, max_tokens: int | None
) -> list[Prompt]:
    found = asked.found
    given = found["prompt"]
    many = isinstance(given, list) and not isinstance(given[0], int)
    max_len = serving.info.max_model_len
    prompts: list[Prompt] = []
    for index, one in enumerate(given if many else [given]):
        param = f"prompt.{index}" if many else "prompt"
        if isinstance(one, str):
            check_characters(len(one), max_len, context.limits, param)
            ids = await encode(serving.model, one, found.get("add_special_tokens", True))
        else:
            ids = one
        ids = truncated(ids, found, max_len, max_tokens or 1, asked.report)
        prompts.append(Prompt(ids, one if isinstance(one, str) else None, param))
    _check_scores(context, prompts, found)
    return prompts


def _check_scores(
    context: ServerContext, prompts: Sequence[Prompt], found: Mapping[str, Any]
) -> None:
    depth = found.get("prompt_logprobs")
    if found.get("echo") and found.get("logprobs") is not None:
        depth = max(depth or 0, found["logprobs"])
    entries = sum(len(prompt.ids) for prompt in prompts) * ((depth or 0) + 1)
    if depth is not None and entries > context.limits.prompt_logprob_entries:
        raise ApiError.of(
            "too_many_items",
            f"{entries} log-probabilities of prompts are asked for; at most "
            f"{context.limits.prompt_logprob_entries} are given",
            "prompt_logprobs" if found.get("prompt_logprobs") is not None else "logprobs",
        )


def _echoes(
    tokenizer: Tokenizer, prompts: Sequence[Prompt], found: Mapping[str, Any]
) -> list[Echo]:
    skip = found.get("skip_special_tokens", True)
    return [_echo(tokenizer, prompt, skip) for prompt in prompts]


def _echo(tokenizer: Tokenizer, prompt: Prompt, skip_special_tokens: bool) -> Echo:
    """The prompt as the client wrote it, else decoded; each token's place in it."""
    written = prompt.text
    detokenizer = Detokenizer(tokenizer, (), skip_special_tokens and written is None)
    offsets: list[int] = []
    pieces: list[str] = []
    size = 0
    for number, id in enumerate(prompt.ids):
        offsets.append(size if written is None else min(size, len(written)))
        piece = detokenizer.feed((id,))
        if number == 0 and id == tokenizer.bos_id and not (written or "").startswith(piece):
            continue  # added by the tokenizer, not written by anybody
        pieces.append(piece)
        size += len(piece)
    # an unfinished character at the end is left to the output that finishes it
    return Echo("".join(pieces) if written is None else written, offsets)


def _options(
    found: Mapping[str, Any], serving: Serving, echoes: Sequence[Echo]
) -> CompletionOptions:
    stream = found.get("stream_options") or {}
    as_ids = found.get("return_tokens_as_token_ids", False)
    return CompletionOptions(
        TokenNames(serving.model.tokenizer, as_ids),
        logprobs=found.get("logprobs") is not None,
        echoes=echoes,
        nothing_made=found.get("max_tokens") == 0,
        prompt_logprobs=found.get("prompt_logprobs") is not None,
        token_ids=found.get("return_token_ids", False),
        include_usage=stream.get("include_usage", False),
        continuous_usage=stream.get("continuous_usage_stats", False),
        timings=found.get("timings", False),
    )
