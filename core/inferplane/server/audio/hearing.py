"""What the front end knows of a model that hears."""

from __future__ import annotations

from dataclasses import dataclass

from inferplane.checkpoint import Checkpoint
from inferplane.model_config import ModelConfig
from inferplane.server.audio.audio_processor import AudioProcessor
from inferplane.server.audio.speech_tokens import SpeechTokens, read_speech_tokens
from inferplane.speech_config import SpeechConfig, read_speech_config
from inferplane.tokenization.tokenizer import Tokenizer

__all__ = ["Hearing", "read_hearing"]


@dataclass(frozen=True, slots=True)
class Hearing:
    """Of one checkpoint."""

    speech: SpeechConfig
    tokens: SpeechTokens
    processor: AudioProcessor


def read_hearing(
    checkpoint: Checkpoint, config: ModelConfig, tokenizer: Tokenizer, most_s: float
) -> Hearing | None:
    """Its process not started yet; None = the model hears nothing. Raises ModelError."""
    speech = read_speech_config(config.whole)
    if speech is None:
        return None
    tokens = read_speech_tokens(checkpoint, tokenizer, speech, config.vocab_size)
    return Hearing(speech, tokens, AudioProcessor(checkpoint.root, most_s))
