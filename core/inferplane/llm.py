"""Offline generation: a model in this program, no server. The same engine, stepped here."""

from __future__ import annotations

import itertools
import os
import secrets
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, TypeAlias

import msgspec

from inferplane.catalogue import resolve_model
from inferplane.checkpoint import Checkpoint, open_checkpoint
from inferplane.checkpoint.sentence_layout import read_sentence_layout
from inferplane.config import DEFAULT_MODEL, ModelSettings, current_environment, launch_settings
from inferplane.engine.messages import Rejected, SequenceOutput
from inferplane.engine.placement import make_executor
from inferplane.engine.start_up import start_engine
from inferplane.errors import ModelError, RequestError
from inferplane.interfaces import Array, Choice
from inferplane.launch import LaunchPlan, LaunchSettings
from inferplane.media import MediaItem
from inferplane.model_config import read_model_config
from inferplane.model_tasks import class_labels
from inferplane.offline_sequence import Child, Completion
from inferplane.planner import run_planner
from inferplane.pooled_values import class_shares, cosine, relevance, shortened, unit, vector_of
from inferplane.request import FinishReason, Request
from inferplane.sampling_params import SamplingParams
from inferplane.tokenization.chat_template import ChatTemplate
from inferplane.tokenization.framing import frame_pair
from inferplane.tokenization.text_stream import TextStream
from inferplane.tokenization.tokenizer import Tokenizer, load_tokenizer

__all__ = ["LLM", "Classification", "Completion", "Embedding"]

Prompt: TypeAlias = str | Sequence[int]
Message: TypeAlias = Mapping[str, Any]

_STATED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""What generation_config.json may give defaults for."""
_EVERYTHING = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Embedding:
    """The vector of one text."""

    prompt_ids: tuple[int, ...]
    vector: Array
    """f32[D], of length 1 unless raw ones were asked for."""


@dataclass(frozen=True, slots=True)
class Classification:
    """The class of one text."""

    label: str
    probs: tuple[float, ...]
    """Of every class, in the model's order; they sum to 1."""


class LLM:
    """A loaded model. Not for use from several threads at once.

    >>> llm = LLM("smollm2-135m")
    >>> llm.generate("Once upon a time", SamplingParams(max_tokens=16))[0].text
    """

    def __init__(self, model: str = DEFAULT_MODEL, **settings: Any) -> None:
        """Fetch if needed, plan, load, warm up.

        `settings` are those of `docs/configuration.md` with underscores: `device`, `dtype`,
        `max_model_len`, `max_num_seqs`, … Raises ConfigError and its kinds.
        """
        asked = ModelSettings(model=model, **settings)
        path = resolve_model(model, offline=asked.offline, cache=asked.cache)
        self._checkpoint = open_checkpoint(path)
        self._tokenizer = _tokenizer_of(self._checkpoint)
        self._settings = asked
        self._template: ChatTemplate | None = None
        self._numbers = itertools.count()
        plan = _in_process(run_planner(_offline(launch_settings(asked, path))))
        executor = make_executor(plan, current_environment())
        self._executor = executor
        self._finalizer = weakref.finalize(self, executor.close)
        started = start_engine(executor, plan, lambda *_: None, os.urandom(32))
        self._engine, self.plan = started.engine, started.launch
        self._normalize = read_sentence_layout(self._checkpoint).normalize
        self._config = read_model_config(self._checkpoint)
        self._eos_ids = self._config.eos_ids or (self._tokenizer.eos_ids if self._tokenizer else ())

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        pictures: Sequence[Sequence[MediaItem]] | None = None,
    ) -> list[Completion]:
        """Complete every prompt, text or token ids, all in one go.

        `sampling` is for all prompts or one for each; None takes the model's own defaults. With
        n > 1 a prompt's completions follow each other. `pictures` are those of each prompt, whose
        ids hold their placeholders (`inferplane.media.media_item`). Raises RequestError for a
        prompt or parameter that cannot be served; then nothing is generated.
        """
        self._require("generate")
        many = _as_prompts(prompts)
        params = self._params(sampling, len(many))
        seen = pictures if pictures is not None else [()] * len(many)
        if len(seen) != len(many):
            raise RequestError(
                "conflicting_fields",
                f"pictures of {len(seen)} prompts for {len(many)} prompts: give () for one without",
                "pictures",
            )
        children = [
            child
            for prompt, param, items in zip(many, params, seen, strict=True)
            for child in self._children(prompt, param, tuple(items))
        ]
        open_children = {child.request.request_id: child for child in children}
        try:
            self._run(open_children)
        finally:  # an error or Ctrl-C leaves nothing behind
            self._engine.abort(tuple(open_children))
            self._engine.outputs.clear()
        return [child.completion() for child in children]

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[Completion]:
        """Answer one conversation, or several, by the model's chat template."""
        many: Sequence[Any] = [messages] if isinstance(messages[0], Mapping) else messages
        template, tokenizer = self._chat_template(), self._need_tokenizer()
        prompts = [
            tokenizer.encode(template.render(one, tools, template_kwargs=template_kwargs))
            for one in many
        ]
        return self.generate(prompts, sampling)

    def embed(
        self,
        texts: Prompt | Sequence[Prompt],
        *,
        normalize: bool | None = None,
        dimensions: int | None = None,
    ) -> list[Embedding]:
        """The vector of every text, in order; texts get the tokenizer's special tokens.

        `normalize` None = as the model's files say, else to length 1 or not; `dimensions` keeps
        the first so many numbers, for models trained for that. Raises RequestError for a text that
        cannot be read, or a model that makes no vectors; then nothing is computed.
        """
        self._require("embed")
        many = [self._ids(text) for text in _as_prompts(texts)]
        unit_length = self._normalize if normalize is None else normalize
        vectors = [
            vector if dimensions is None else shortened(vector, dimensions)
            for vector in self._pool([(ids, 0) for ids in many])
        ]
        return [
            Embedding(ids, unit(vector) if unit_length else vector)
            for ids, vector in zip(many, vectors, strict=True)
        ]

    def choices(self) -> tuple[Choice, ...]:
        """Which backend or kernel serves each kind of layer, and why the others do not."""
        return self._executor.choices()

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """How well the second text of each pair answers the first.

        A cross-encoder reads both at once and answers between 0 and 1, a model for embeddings the
        cosine of its vectors. Raises RequestError.
        """
        self._require("score")
        if "embed" in self.plan.tasks:
            texts = list(dict.fromkeys(text for pair in pairs for text in pair))
            found = zip(texts, self.embed(texts), strict=True)
            vectors = {text: one.vector for text, one in found}
            return [cosine(vectors[one], vectors[two]) for one, two in pairs]
        framed = [frame_pair(self._need_tokenizer(), *pair) for pair in pairs]
        return [
            relevance(row) for row in self._pool([(tuple(f.ids), f.second_start) for f in framed])
        ]

    def classify(self, texts: Prompt | Sequence[Prompt]) -> list[Classification]:
        """The class of every text, in order. Raises RequestError."""
        self._require("classify")
        labels = class_labels(self._config)
        shares = [
            class_shares(row) for row in self._pool([(self._ids(t), 0) for t in _as_prompts(texts)])
        ]
        return [Classification(labels[row.index(max(row))], tuple(row)) for row in shares]

    def close(self) -> None:
        """Give the device back."""
        self._finalizer()
        if self._template is not None:
            self._template.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, open_children: dict[str, Child]) -> None:
        engine = self._engine
        self._add([child.request for child in open_children.values()])
        while open_children:
            for output in self._stepped():
                child = open_children.get(output.request_id)
                if child is not None and child.take(output):
                    del open_children[output.request_id]
                    if output.finish is None:  # a stop string, which the engine cannot see
                        engine.abort((output.request_id,), FinishReason.STOP)

    def _pool(self, texts: Sequence[tuple[tuple[int, ...], int]]) -> list[Array]:
        """f32[D] or f32[C] for each (ids, start of the second text or 0), all in one go."""
        requests = [
            Request(
                request_id=f"offline-{next(self._numbers)}",
                prompt_ids=ids,
                sampling=SamplingParams(seed=0, max_tokens=1),
                pooling=True,
                second_start=second_start,
            )
            for ids, second_start in texts
        ]
        waiting = {request.request_id: place for place, request in enumerate(requests)}
        made: dict[int, Array] = {}
        try:
            self._add(requests)
            while waiting:
                for output in self._stepped():
                    place = waiting.pop(output.request_id, None)
                    if output.error:
                        raise RequestError(output.error, f"text {place} could not be computed")
                    if place is not None:
                        made[place] = vector_of(output.embedding)
        finally:  # an error or Ctrl-C leaves nothing behind
            self._engine.abort(tuple(waiting))
            self._engine.outputs.clear()
        return [made[place] for place in range(len(requests))]

    def _add(self, requests: Sequence[Request]) -> None:
        for request in requests:
            answer = self._engine.add(request)
            if isinstance(answer, Rejected):
                raise RequestError(answer.code, answer.message, answer.param)

    def _stepped(self) -> list[SequenceOutput]:
        self._engine.step()
        outputs, self._engine.outputs = self._engine.outputs, []
        return outputs

    def _require(self, task: str) -> None:
        if task not in self.plan.tasks:
            raise RequestError(
                "unsupported_feature",
                f"this model cannot {task}: it can {', '.join(self.plan.tasks)}; name another, or "
                "set task",
            )

    def _children(
        self, prompt: Prompt, params: SamplingParams, items: tuple[MediaItem, ...]
    ) -> list[Child]:
        ids = self._ids(prompt)
        if params.stop and self._tokenizer is None:
            raise RequestError("unsupported_feature", "stop strings need a tokenizer", "stop")
        seed = secrets.randbits(63) if params.seed is None else params.seed
        left = max(1, self.plan.config.max_model_len - len(ids))
        most = left if params.max_tokens is None else params.max_tokens
        children = []
        for index in range(params.n):
            sampling = msgspec.structs.replace(params, n=1, seed=seed + index, max_tokens=most)
            request = Request(
                request_id=f"offline-{next(self._numbers)}",
                prompt_ids=ids,
                sampling=sampling,
                eos_ids=self._eos_ids,
                items=items,
            )
            text = TextStream(self._tokenizer, sampling, ids) if self._tokenizer else None
            children.append(Child(request, index, text))
        return children

    def _ids(self, prompt: Prompt) -> tuple[int, ...]:
        if not isinstance(prompt, str):
            return tuple(prompt)
        return tuple(self._need_tokenizer().encode(prompt, add_special_tokens=True))

    def _params(
        self, sampling: SamplingParams | Sequence[SamplingParams] | None, count: int
    ) -> Sequence[SamplingParams]:
        if sampling is None:
            stated = self._checkpoint.generation_config
            if self._settings.generation_config != "model":
                stated = {}
            given = {name: stated[name] for name in _STATED if stated.get(name) is not None}
            sampling = msgspec.convert(given, SamplingParams, strict=False)
        if isinstance(sampling, SamplingParams):
            return [sampling] * count
        if len(sampling) != count:
            raise RequestError(
                "conflicting_fields",
                f"{len(sampling)} sampling parameters for {count} prompts: give one, or one each",
                "sampling",
            )
        return sampling

    def _need_tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            load_tokenizer(self._checkpoint)  # says what is missing
            raise ModelError(f"{self._checkpoint.root} has no tokenizer")
        return self._tokenizer

    def _chat_template(self) -> ChatTemplate:
        if self._template is None:
            file = self._settings.chat_template
            source = file.read_text(encoding="utf-8") if file else self._checkpoint.chat_template
            if source is None:
                raise ModelError(
                    f"{self._checkpoint.root} has no chat template: pass chat_template=PATH, or "
                    "use generate()"
                )
            self._template = ChatTemplate(source, self._need_tokenizer())
        return self._template


def _as_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str) or (len(prompts) and isinstance(prompts[0], int)):
        return [prompts]  # type: ignore[list-item]  # one prompt, as text or as ids
    return list(prompts)  # type: ignore[arg-type]  # then it is many


def _offline(settings: LaunchSettings) -> LaunchSettings:
    """Nobody waits in a queue here: no limit, no timeout."""
    scheduler = replace(settings.scheduler, max_waiting=_EVERYTHING, queue_timeout_s=0.0)
    return replace(settings, scheduler=scheduler)


def _in_process(plan: LaunchPlan) -> LaunchPlan:
    """One rank that needs no environment of its own runs here and saves the hop."""
    if plan.topology.processes == 1 and not any(plan.worker_env):
        return replace(plan, topology=replace(plan.topology, placement="inline"))
    return plan


def _tokenizer_of(checkpoint: Checkpoint) -> Tokenizer | None:
    has_one = checkpoint.tokenizer_file is not None or "tokenizer.ggml.tokens" in (
        checkpoint.metadata
    )
    return load_tokenizer(checkpoint) if has_one else None
