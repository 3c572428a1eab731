"""A model of this command's own: an engine process started for it and ended with it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence

from inferplane.checkpoint import Checkpoint, open_checkpoint
from inferplane.cli.serve import fetch_model
from inferplane.cli.startup import show_startup
from inferplane.cli.text_model import Message, Sampling
from inferplane.config import ModelSettings, launch_settings
from inferplane.engine.client import EngineClient
from inferplane.errors import EngineError, ModelError
from inferplane.model_config import read_model_config
from inferplane.request import FinishReason
from inferplane.sampling_params import SamplingParams
from inferplane.tokenization.chat_template import ChatTemplate
from inferplane.tokenization.text_stream import TextStream
from inferplane.tokenization.tokenizer import Tokenizer, load_tokenizer

__all__ = ["LocalModel"]

_SAMPLING_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


class LocalModel:
    """Loads with `start`; see TextModel for the rest."""

    def __init__(
        self, name: str, client: EngineClient, checkpoint: Checkpoint, settings: ModelSettings
    ) -> None:
        self.name = name
        self._client = client
        self._checkpoint = checkpoint
        self._settings = settings
        self._tokenizer: Tokenizer = load_tokenizer(checkpoint)
        self._eos_ids = read_model_config(checkpoint).eos_ids or self._tokenizer.eos_ids
        self._template: ChatTemplate | None = None

    @classmethod
    async def start(cls, settings: ModelSettings) -> LocalModel:
        """Fetch if needed, plan, load, warm up; progress on stderr. Raises InferplaneError."""
        path = fetch_model(settings)
        client = EngineClient.launch(launch_settings(settings, path))
        await client.start()
        try:
            model = cls(settings.model, client, open_checkpoint(path), settings)
            await show_startup(client, sys.stderr)
        except BaseException:
            await client.close()
            raise
        return model

    async def chat(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[str]:
        """See TextModel."""
        prompt = self._chat_template().render(messages)
        async for text in self.complete(prompt, sampling):
            yield text

    async def complete(self, prompt: str, sampling: Sampling) -> AsyncIterator[str]:
        """See TextModel."""
        prompt_ids = self._tokenizer.encode(prompt)
        params = self._params(sampling)
        text_stream = TextStream(self._tokenizer, params, prompt_ids)
        stream = await self._client.submit(prompt_ids, params, eos_ids=self._eos_ids)
        try:
            async for index, output in stream:
                delta = text_stream.feed(output)
                if delta.text:
                    yield delta.text
                if text_stream.stopped:
                    stream.finish(index)
                if delta.finish is FinishReason.ERROR:
                    raise EngineError("engine_dead", f"generation failed: {delta.error}")
                if delta.finish is not None:
                    return
        finally:
            stream.abort()

    async def close(self) -> None:
        """See TextModel."""
        if self._template is not None:
            self._template.close()
        await self._client.close()

    def _params(self, sampling: Sampling) -> SamplingParams:
        defaults = {}
        if self._settings.generation_config == "model":
            stated = self._checkpoint.generation_config
            defaults = {name: stated[name] for name in _SAMPLING_DEFAULTS if name in stated}
        asked = {**defaults, **sampling.given(), "stop": sampling.stop}
        return SamplingParams(**asked)  # type: ignore[arg-type]

    def _chat_template(self) -> ChatTemplate:
        if self._template is None:
            file = self._settings.chat_template
            source = file.read_text(encoding="utf-8") if file else self._checkpoint.chat_template
            if source is None:
                raise ModelError(
                    f"model {self.name!r} has no chat template: give one with --chat-template "
                    "FILE, or use 'inferplane generate'"
                )
            self._template = ChatTemplate(source, self._tokenizer)
        return self._template
