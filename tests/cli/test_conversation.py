"""Laws of a chat: what is sent, what is kept, what commands do."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from inferplane.cli.chat import converse
from inferplane.cli.conversation import COMMANDS, Conversation
from inferplane.cli.text_model import Message, Sampling
from inferplane.errors import EngineError


class Parrot:
    """Answers with the last question's words; fails when asked to."""

    name = "parrot"

    def __init__(self) -> None:
        self.heard: list[list[Message]] = []

    async def chat(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[str]:
        self.heard.append(list(messages))
        if messages[-1]["content"] == "fail":
            raise EngineError("engine_dead", "it failed")
        for word in messages[-1]["content"].split():
            yield f"{word} "

    async def complete(self, prompt: str, sampling: Sampling) -> AsyncIterator[str]:
        yield prompt

    async def close(self) -> None:
        return None


def talk(text: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Parrot, Conversation]:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    parrot, conversation = Parrot(), Conversation()
    asyncio.run(converse(parrot, conversation, Sampling()))
    return parrot, conversation


def roles(conversation: Conversation) -> list[str]:
    return [message["role"] for message in conversation.messages()]


def test_each_line_is_a_question_and_answers_are_remembered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parrot, conversation = talk("one two\n\nthree\n", monkeypatch)
    assert [len(messages) for messages in parrot.heard] == [1, 3]
    assert roles(conversation) == ["user", "assistant", "user", "assistant"]
    assert capsys.readouterr().out == "one two \nthree \n"


def test_a_system_text_leads_and_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    parrot, _ = talk("hello\n/system be brief\nhi\n", monkeypatch)
    assert parrot.heard[1] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
    ]


def test_retry_asks_the_same_again_without_the_old_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    parrot, conversation = talk("hello\n/retry\n", monkeypatch)
    assert parrot.heard[0] == parrot.heard[1] == [{"role": "user", "content": "hello"}]
    assert roles(conversation) == ["user", "assistant"]


def test_retry_without_a_question_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    parrot, _ = talk("/retry\n", monkeypatch)
    assert parrot.heard == []


def test_a_failed_question_is_forgotten_and_the_chat_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parrot, conversation = talk("fail\nhello\n", monkeypatch)
    assert capsys.readouterr().err == "error: it failed\n"
    assert parrot.heard[1] == [{"role": "user", "content": "hello"}]
    assert roles(conversation) == ["user", "assistant"]


def test_exit_ends_the_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    parrot, _ = talk("/exit\nhello\n", monkeypatch)
    assert parrot.heard == []


def test_save_writes_all_messages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    _, conversation = talk(f"/system be brief\ngrüße\n/save {path}\n", monkeypatch)
    assert json.loads(path.read_text(encoding="utf-8")) == conversation.messages()


def test_save_into_nowhere_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    talk(f"/save {tmp_path}/no/where.json\n/save\n", monkeypatch)
    assert capsys.readouterr().err.splitlines() == [
        f"error: {tmp_path}/no/where.json: No such file or directory",
        "/save needs a file name",
    ]


def test_an_unknown_command_lists_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parrot, _ = talk("/what\n", monkeypatch)
    shown = capsys.readouterr().err
    assert all(command in shown for command in COMMANDS)
    assert parrot.heard == []
