"""`inferplane chat`: a conversation in the terminal, with a model here or behind a URL."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from inferplane.cli.conversation import COMMANDS, Conversation
from inferplane.cli.flags import Given, resolve_given, with_settings
from inferplane.cli.text_model import Sampling, TextModel
from inferplane.config import ModelSettings, cache_folder, current_environment
from inferplane.errors import InferplaneError
from inferplane.settings import Resolved

__all__ = ["chat", "converse", "open_model", "print_pieces"]


@with_settings(ModelSettings)
def chat(
    given: Given,
    *,
    once: Annotated[str | None, Parameter(help="Ask this, print the answer, leave.")] = None,
    system: Annotated[str, Parameter(help="System text that leads the conversation.")] = "",
    sampling: Sampling | None = None,
) -> int:
    """Talk to a model in the terminal.

    MODEL is one to load here, or the URL of a server (http://127.0.0.1:8000); its key is taken from
    INFERPLANE_API_KEY. Without a terminal each line of standard input is one question.
    """
    resolved = resolve_given(given)
    return asyncio.run(_chat(resolved, Conversation(system), sampling or Sampling(), once))


async def open_model(resolved: Resolved) -> TextModel:
    """The model the settings name: a client of a server, or an engine of our own."""
    settings = ModelSettings(**resolved.of(ModelSettings))
    if settings.model.startswith(("http://", "https://")):
        from inferplane.cli.remote_model import RemoteModel  # 70 ms, for URLs alone

        key = current_environment().get("INFERPLANE_API_KEY", "")
        return await RemoteModel.connect(settings.model, key)
    from inferplane.cli.local_model import LocalModel  # 150 ms, for models loaded here

    return await LocalModel.start(settings)


async def print_pieces(pieces: AsyncIterator[str]) -> str:
    """Print a reply as it comes, then a line end; return all of it."""
    said = []
    async for piece in pieces:
        said.append(piece)
        sys.stdout.write(piece)
        sys.stdout.flush()
    print(flush=True)
    return "".join(said)


async def _chat(
    resolved: Resolved, conversation: Conversation, sampling: Sampling, once: str | None
) -> int:
    model = await open_model(resolved)
    try:
        if once is not None:
            conversation.ask(once)
            await print_pieces(model.chat(conversation.messages(), sampling))
            return 0
        await converse(model, conversation, sampling)
    finally:
        await model.close()
    return 0


async def converse(model: TextModel, conversation: Conversation, sampling: Sampling) -> None:
    """Read questions and commands from standard input until it ends or /exit; print replies."""
    read_line = _prompting_reader() if sys.stdin.isatty() else _plain_reader()
    if sys.stdin.isatty():
        print(f"{model.name}: /help lists the commands, Esc Enter begins a new line")
    while (line := await read_line()) is not None:
        if line.startswith("/"):
            if not _obey(line, conversation):
                return
            if line.split()[0] != "/retry" or not conversation.turns:
                continue
        elif line.strip():
            conversation.ask(line)
        else:
            continue
        await _reply(model, conversation, sampling)


async def _reply(model: TextModel, conversation: Conversation, sampling: Sampling) -> None:
    """One reply; Ctrl-C ends it and keeps what was said."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(print_pieces(model.chat(conversation.messages(), sampling)))
    with contextlib.suppress(NotImplementedError):  # not offered on every system
        loop.add_signal_handler(signal.SIGINT, task.cancel)
    try:
        conversation.answer(await task)
    except asyncio.CancelledError:
        print("\n(stopped)", file=sys.stderr)
        conversation.take_back_question()
    except InferplaneError as error:
        print(f"error: {error}", file=sys.stderr)
        conversation.take_back_question()
    finally:
        with contextlib.suppress(NotImplementedError):
            loop.remove_signal_handler(signal.SIGINT)


def _obey(line: str, conversation: Conversation) -> bool:
    """Carry out a command; False means leave."""
    word, _, rest = line.strip().partition(" ")
    if word == "/exit":
        return False
    if word == "/system":
        if rest:
            conversation.begin_anew(rest)
        print(conversation.system or "(no system text)", file=sys.stderr)
    elif word == "/retry":
        if not conversation.retry():
            print("nothing was asked yet", file=sys.stderr)
    elif word == "/save":
        _save(conversation, rest)
    else:
        for name, meaning in COMMANDS.items():
            print(f"{name:8} {meaning}", file=sys.stderr)
    return True


def _save(conversation: Conversation, name: str) -> None:
    if not name:
        print("/save needs a file name", file=sys.stderr)
        return
    try:
        conversation.save(Path(name).expanduser())
    except OSError as error:
        print(f"error: {name}: {error.strerror}", file=sys.stderr)


def _plain_reader() -> Callable[[], Awaitable[str | None]]:
    async def read() -> str | None:
        line = await asyncio.to_thread(sys.stdin.readline)
        return line.rstrip("\n") if line else None

    return read


def _prompting_reader() -> Callable[[], Awaitable[str | None]]:
    from prompt_toolkit import PromptSession  # 80 ms, only for conversations
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()
    keys.add("escape", "enter")(lambda event: event.current_buffer.insert_text("\n"))
    folder = cache_folder(current_environment())
    folder.mkdir(parents=True, exist_ok=True)
    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(folder / "chat_history")),
        completer=WordCompleter(list(COMMANDS), sentence=True),
        key_bindings=keys,
    )

    async def read() -> str | None:
        while True:
            try:
                return await session.prompt_async("> ")
            except KeyboardInterrupt:  # clears the line, as in a shell
                continue
            except EOFError:
                return None

    return read
