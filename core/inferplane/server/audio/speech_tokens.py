"""The special tokens by which a model that hears is told what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from inferplane.checkpoint import Checkpoint
from inferplane.errors import ModelError
from inferplane.speech_config import SpeechConfig
from inferplane.tokenization.tokenizer import Tokenizer

__all__ = ["SpeechTokens", "read_speech_tokens"]

_LANGUAGE = re.compile(r"<\|([a-z]{2,3})\|>")
STEP_S = 0.02
"""Between one timestamp and the next."""
_INITIAL = 50


@dataclass(frozen=True, slots=True)
class SpeechTokens:
    """Ids of one vocabulary."""

    start: int
    end: int
    languages: Mapping[str, int]
    """Code -> id; {} = the model knows English alone."""
    tasks: Mapping[str, int]
    """transcribe and translate; {} = there is nothing to choose."""
    no_timestamps: int
    previous: int | None
    """Before a text that comes before the recording's."""
    timestamps: range
    """The first stands for 0 s, each next one for STEP_S more."""
    suppressed: tuple[int, ...]
    """Never drawn."""
    suppressed_first: tuple[int, ...]
    """Not drawn as an answer's first token either."""
    most_initial: int
    """The latest timestamp that may come first, as an index."""

    def seconds(self, timestamp: int) -> float:
        """What a timestamp stands for."""
        return (timestamp - self.timestamps.start) * STEP_S


def read_speech_tokens(
    checkpoint: Checkpoint, tokenizer: Tokenizer, speech: SpeechConfig, vocab_size: int
) -> SpeechTokens:
    """By the tokenizer's names and generation_config.json. ModelError names what is missing."""
    known = {
        name: id
        for name, id in tokenizer.backend.get_vocab(with_added_tokens=True).items()
        if name.startswith("<|")
    }

    def needed(name: str) -> int:
        if name not in known:
            raise ModelError(
                f"{checkpoint.root}: the tokenizer has no token {name}; serve the model with its "
                "own tokenizer.json"
            )
        return known[name]

    no_timestamps = needed("<|notimestamps|>")
    first = known.get("<|0.00|>", no_timestamps + 1)
    last = min(vocab_size, first + int(speech.num_states) + 1)
    stated = checkpoint.generation_config
    initial = stated.get("max_initial_timestamp_index")
    many = stated.get("is_multilingual") is not False and "<|transcribe|>" in known
    languages = {found[1]: id for name, id in known.items() if (found := _LANGUAGE.fullmatch(name))}
    return SpeechTokens(
        start=speech.placeholder,
        end=needed("<|endoftext|>"),
        languages=languages if many else {},
        tasks={task: needed(f"<|{task}|>") for task in ("transcribe", "translate")} if many else {},
        no_timestamps=no_timestamps,
        previous=known.get("<|startofprev|>"),
        timestamps=range(first, last),
        suppressed=_ids(stated.get("suppress_tokens"), vocab_size),
        suppressed_first=_ids(stated.get("begin_suppress_tokens"), vocab_size),
        most_initial=initial if type(initial) is int else _INITIAL,
    )


def _ids(found: object, vocab_size: int) -> tuple[int, ...]:
    ids = found if isinstance(found, list) else []
    return tuple(id for id in ids if type(id) is int and 0 <= id < vocab_size)
