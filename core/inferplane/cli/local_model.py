"""A model of this command's own: an engine process started for it and ended with it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence

from inferplane.cli.serve import fetch_to_run
from inferplane.cli.startup import show_startup
from inferplane.cli.text_model import Message, Sampling
from inferplane.config import ModelSettings, ServeSettings, launch_settings
from inferplane.engine.client import EngineClient
from inferplane.errors import EngineError, ModelError
from inferplane.request import FinishReason
from inferplane.sampling_params import SamplingParams
from inferplane.server.served_model import ServedModel, load_served_model
from inferplane.tokenization.text_stream import TextStream

__all__ = ["LocalModel"]


class LocalModel:
    """Loads with `start`; see TextModel for the rest."""

    def __init__(self, name: str, client: EngineClient, served: ServedModel) -> None:
        self.name = name
        self._client = client
        self._served = served

    @classmethod
    async def start(cls, settings: ModelSettings) -> LocalModel:
        """Fetch if needed, plan, load, warm up; progress on stderr. Raises InferplaneError."""
        launch = launch_settings(settings, fetch_to_run(settings))
        client = EngineClient.launch(launch)
        await client.start()
        try:
            served = load_served_model(
                ServeSettings(
                    launch=launch,
                    model_source=settings.model,
                    chat_template=settings.chat_template,
                    generation_config=settings.generation_config,
                )
            )
            await show_startup(client, sys.stderr)
        except BaseException:
            await client.close()
            raise
        return cls(settings.model, client, served)

    async def chat(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[str]:
        """See TextModel."""
        if self._served.template is None:
            raise ModelError(
                f"model {self.name!r} has no chat template: give one with --chat-template FILE, or "
                "use 'inferplane generate'"
            )
        prompt = self._served.template.render(messages)
        async for text in self._run(self._served.tokenizer.encode(prompt), sampling):
            yield text

    async def complete(self, prompt: str, sampling: Sampling) -> AsyncIterator[str]:
        """See TextModel."""
        prompt_ids = self._served.tokenizer.encode(prompt, add_special_tokens=True)
        async for text in self._run(prompt_ids, sampling):
            yield text

    async def _run(self, prompt_ids: list[int], sampling: Sampling) -> AsyncIterator[str]:
        params = self._params(sampling)
        text_stream = TextStream(self._served.tokenizer, params, prompt_ids)
        stream = await self._client.submit(prompt_ids, params, eos_ids=self._served.eos_ids)
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
        self._served.close()
        await self._client.close()

    def _params(self, sampling: Sampling) -> SamplingParams:
        asked = {**self._served.defaults, **sampling.given(), "stop": sampling.stop}
        return SamplingParams(**asked)  # type: ignore[arg-type]
