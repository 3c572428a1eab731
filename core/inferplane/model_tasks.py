"""What a model can be asked for, by its files and by what the user says.

A task is what requests want of the served model: generate text, embed texts, score pairs of texts,
classify texts, transcribe speech.
"""

from __future__ import annotations

from dataclasses import dataclass

from inferplane.checkpoint import Checkpoint
from inferplane.checkpoint.sentence_layout import read_sentence_layout
from inferplane.errors import ConfigError
from inferplane.model_config import ModelConfig
from inferplane.speech_config import HEARING

__all__ = ["TASKS", "TaskChoice", "choose_tasks", "class_labels"]

TASKS = ("generate", "embed", "score", "classify", "transcribe")

_CLASSIFIER = "ForSequenceClassification"
_COUNTS_FROM_PADDING = ("roberta", "xlm-roberta", "camembert")
_ENCODERS = ("bert", *_COUNTS_FROM_PADDING)
"""Values of model_type whose models see a whole text at once and generate nothing."""


@dataclass(frozen=True, slots=True)
class TaskChoice:
    """The tasks of one launch, the main one first."""

    tasks: tuple[str, ...]
    reason: str
    max_tokens: int | None = None
    """The longest text the model was made for, where its files say less than its positions."""
    keeps_kv: bool = True
    """False: an encoder."""

    @property
    def generates(self) -> bool:
        """Whether any request draws tokens."""
        return "generate" in self.tasks or "transcribe" in self.tasks


def choose_tasks(asked: str, config: ModelConfig, checkpoint: Checkpoint) -> TaskChoice:
    """The tasks to serve; `asked` is one of TASKS or "auto".

    Raises ConfigError naming what the model can do when it cannot do what is asked.
    """
    layout = read_sentence_layout(checkpoint)
    possible, preferred, reason = _possible(config, layout.is_one)
    encodes = config.model_type in _ENCODERS
    longest = _longest(config, layout.max_tokens)
    if asked == "auto":
        return TaskChoice(preferred, reason, longest, not encodes)
    if asked not in possible:
        raise ConfigError(
            f"task {asked!r}: {config.architecture} can {', '.join(possible)}; leave --task out, "
            "or name a model made for it"
        )
    served = ("embed", "score") if asked == "embed" else (asked,)
    if asked == "score" and "embed" in possible:
        served = ("score", "embed")
    most = None if asked == "generate" else longest
    return TaskChoice(served, f"--task {asked}", most, not encodes)


def class_labels(config: ModelConfig) -> tuple[str, ...]:
    """The names of a classifier's classes, in order: id2label, else LABEL_0, LABEL_1, …

    Without either key the reference library has two classes.
    """
    named = config.raw.get("id2label")
    if isinstance(named, dict) and named:
        return tuple(str(named.get(str(i), f"LABEL_{i}")) for i in range(len(named)))
    count = config.raw.get("num_labels", 2)
    return tuple(f"LABEL_{i}" for i in range(count if isinstance(count, int) else 2))


def _possible(
    config: ModelConfig, for_sentences: bool
) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """(everything it can do, what it does unless told, why)."""
    if config.architecture.endswith(_CLASSIFIER):
        labels = len(class_labels(config))
        tasks = ("score", "classify") if labels == 1 else ("classify",)
        return tasks, tasks, f"{config.architecture} with {labels} class{'es' * (labels > 1)}"
    if config.model_type in HEARING:
        return ("transcribe",), ("transcribe",), "a model that hears"
    vectors = ("embed", "score")
    if config.model_type in _ENCODERS:
        return vectors, vectors, "an encoder"
    if config.architecture.endswith("Model"):
        return vectors, vectors, "a decoder without an output layer"
    everything = ("generate", *vectors)
    if for_sentences:
        return everything, vectors, "its files are laid out for embeddings"
    return everything, ("generate", "embed"), "a decoder"


def _longest(config: ModelConfig, stated: int | None) -> int | None:
    """RoBERTa counts positions from the padding id on, and loses those before."""
    if config.model_type in _COUNTS_FROM_PADDING:
        padding = config.raw.get("pad_token_id", 1)
        room = config.max_position - 1 - (padding if isinstance(padding, int) else 1)
        return room if stated is None else min(room, stated)
    return stated
