"""Conversations to prompt text by the model's own chat template, rendered in a limited process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from inferplane.errors import ModelError, RequestError
from inferplane.limited_process import LimitedProcess, LimitExceeded
from inferplane.tokenization.template_messages import Answer, Described, Greeting, Render
from inferplane.tokenization.tokenizer import Tokenizer

__all__ = ["ChatTemplate"]

_RENDER_S = 1.0
_SHOWN_CHARACTERS = 200
_OWN_NAMES = frozenset(("messages", "tools", "documents", "add_generation_prompt"))
_TAIL = "<<inferplane-continues-here>> "
"""Marks the end of the message to continue; the space shows whether the template trims."""


class ChatTemplate:
    """One template in use. Safe to share between threads; renders take turns.

    `names` are those a caller may set through `chat_template_kwargs`.
    """

    def __init__(
        self,
        source: str,
        tokenizer: Tokenizer,
        *,
        origin: str = "chat template",
        picture: tuple[str, str] | None = None,
    ) -> None:
        """Starts the process. Raises ModelError naming `origin` for a template it cannot use.

        `picture` is what the template writes for a picture, and the mark that is written instead:
        a secret, so that no text of a message can be taken for a picture. None = there are none.
        """
        self.source = source
        written, self._mark = picture or ("", "")
        special = dict(tokenizer.special_tokens)
        if written:
            source = source.replace(written, self._mark)
            special = {name: self._mark if t == written else t for name, t in special.items()}
        greeting = Greeting(source, special, self._mark)
        self._process = LimitedProcess(
            "inferplane.tokenization.template_child",
            msgspec.msgpack.encode(greeting),
            deadline_s=_RENDER_S,
        )
        self._answers = msgspec.msgpack.Decoder(Answer)
        try:
            described = msgspec.msgpack.decode(self._process.start(), type=Described)
        except LimitExceeded as error:
            raise ModelError(f"{origin}: {error}; give another with --chat-template") from None
        if described.fault:
            self._process.close()
            raise ModelError(
                f"{origin} is no usable template: {described.fault}; give another with "
                "--chat-template"
            )
        self.takes_strings = described.takes_strings
        self.takes_parts = described.takes_parts
        self.takes_pictures = described.takes_pictures
        self.reads = frozenset(described.names)
        self.names = self.reads - _OWN_NAMES - tokenizer.special_tokens.keys()
        self.takes_tools = "tools" in self.reads

    def close(self) -> None:
        """End the process; a later render starts it again."""
        self._process.close()

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        *,
        continue_final_message: bool = False,
        documents: Sequence[Mapping[str, Any]] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt text. Blocks for up to a second, so event loops call it in a thread.

        Content is a string or a list of text and image parts; either becomes the form the template
        takes, each picture one mark.
        Raises RequestError `template_rejected` with the template's own words, or `unknown_field`
        for a name in `template_kwargs` that it does not read.
        """
        for name in template_kwargs or ():
            if name not in self.names:
                raise RequestError(
                    "unknown_field", self._unknown(name), f"chat_template_kwargs.{name}"
                )
        shaped = [self._shaped(message) for message in messages]
        if continue_final_message:
            shaped[-1] = self._tailed(shaped[-1])
        request = Render(
            shaped,
            None if tools is None else [dict(tool) for tool in tools],
            None if documents is None else [dict(document) for document in documents],
            add_generation_prompt,
            dict(template_kwargs or {}),
        )
        text = self._text_of(request)
        return _cut_at_tail(text) if continue_final_message else text

    def _text_of(self, request: Render) -> str:
        try:
            answer = self._answers.decode(self._process.call(msgspec.msgpack.encode(request)))
        except LimitExceeded:
            answer = Answer(fault=f"it takes longer than {_RENDER_S:g} s or too much memory")
        if answer.refused:
            said = answer.refused[:_SHOWN_CHARACTERS]
            raise RequestError(
                "template_rejected", f"the chat template refused the messages: {said}", "messages"
            )
        if answer.fault:
            raise RequestError(
                "template_rejected",
                f"the chat template cannot render these messages: {answer.fault}",
                "messages",
            )
        return answer.text

    def _unknown(self, name: str) -> str:
        known = ", ".join(sorted(self.names)) or "none"
        return f"the chat template reads no {name!r} (it reads: {known})"

    def _shaped(self, message: Mapping[str, Any]) -> dict[str, Any]:
        content = message.get("content")
        if isinstance(content, list) and any(part["type"] == "image" for part in content):
            if self.takes_pictures:
                return dict(message)
            content = [self._written(part) for part in content]
        if isinstance(content, list) and self.takes_strings:
            return {**message, "content": _joined(content)}
        if isinstance(content, str | list) and not self.takes_strings:
            text = content if isinstance(content, str) else _joined(content)
            return {**message, "content": [{"type": "text", "text": text}]}
        return dict(message)

    def _written(self, part: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"type": "text", "text": self._mark} if part["type"] == "image" else part

    def _tailed(self, message: dict[str, Any]) -> dict[str, Any]:
        content = message.get("content")
        if isinstance(content, list):
            text = _joined(content) + _TAIL
            return {**message, "content": [{"type": "text", "text": text}]}
        return {**message, "content": (content or "") + _TAIL}


def _joined(parts: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join([part["text"] for part in parts])


def _cut_at_tail(text: str) -> str:
    place = text.rfind(_TAIL.rstrip())
    if place < 0:
        raise RequestError(
            "template_rejected",
            "the chat template does not show the last message's text as it is, so it cannot be "
            "continued",
            "continue_final_message",
        )
    trimmed = not text.startswith(_TAIL, place)
    return text[:place].rstrip() if trimmed else text[:place]
