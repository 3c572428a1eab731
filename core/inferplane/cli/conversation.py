"""The messages of one chat and the commands that change them. Knows no terminal and no model."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from inferplane.cli.text_model import Message

__all__ = ["COMMANDS", "Conversation"]

COMMANDS = {
    "/system": "TEXT   set the system text and begin anew; without TEXT show it",
    "/retry": "ask the last question again",
    "/save": "FILE   write the conversation as JSON",
    "/help": "this list",
    "/exit": "leave (also Ctrl-D)",
}


@dataclass(slots=True)
class Conversation:
    """What was said so far."""

    system: str = ""
    turns: list[Message] = field(default_factory=list)

    def messages(self) -> list[Message]:
        """As a chat template or server takes them."""
        head: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return head + self.turns

    def ask(self, text: str) -> None:
        """Add a question."""
        self.turns.append({"role": "user", "content": text})

    def answer(self, text: str) -> None:
        """Add the reply to the last question."""
        self.turns.append({"role": "assistant", "content": text})

    def take_back_question(self) -> None:
        """Forget a question that got no reply, so that roles keep alternating."""
        if self.turns and self.turns[-1]["role"] == "user":
            self.turns.pop()

    def retry(self) -> bool:
        """Forget the last reply; False when there is no question to ask again."""
        if self.turns and self.turns[-1]["role"] == "assistant":
            self.turns.pop()
        return bool(self.turns)

    def begin_anew(self, system: str) -> None:
        """Forget all turns; `system` leads the next ones."""
        self.system = system
        self.turns.clear()

    def save(self, path: Path) -> None:
        """Write all messages as a JSON list. Raises OSError."""
        text = json.dumps(self.messages(), indent=2, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
