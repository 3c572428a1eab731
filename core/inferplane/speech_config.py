"""What config.json says of a model that hears: its decoder's numbers and where its audio stands.

A prompt begins with one placeholder for each state of the encoder and goes on with the decoder's
tokens. The placeholders are padded to AUDIO_MULTIPLE, so that no KV block holds both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from inferplane.checkpoint.checked_keys import CheckedKeys

__all__ = ["AUDIO_MULTIPLE", "HEARING", "SpeechConfig", "decoder_keys", "read_speech_config"]

AUDIO_MULTIPLE = 128
"""Positions; KV blocks of models that hear must divide it."""
HEARING = frozenset(("whisper",))
"""`model_type` of what is served with recordings."""
_OF_DECODER = {
    "hidden_size": "d_model",
    "intermediate_size": "decoder_ffn_dim",
    "num_attention_heads": "decoder_attention_heads",
    "num_hidden_layers": "decoder_layers",
}
"""What a decoder's numbers are called elsewhere, and in these files, where the same names may
stand for the encoder's."""
_FRAMES_A_STATE = 2
"""The second convolution has this stride."""


@dataclass(frozen=True, slots=True)
class SpeechConfig:
    """The encoder in numbers."""

    layers: int
    heads: int
    intermediate_size: int
    mel_bins: int
    num_states: int
    """States that the encoder makes of one window of audio."""
    most_text: int
    """Tokens of a prompt's text and its answer together."""
    placeholder: int
    """The token that stands for a state in prompts."""

    @property
    def padded(self) -> int:
        """Positions before the text."""
        return _padded(self.num_states)

    @property
    def num_frames(self) -> int:
        """Columns of the spectrogram of one window."""
        return self.num_states * _FRAMES_A_STATE


def decoder_keys(config: Mapping[str, object]) -> Mapping[str, object]:
    """The decoder's numbers under the names that all decoders have; others as they are."""
    found = {ours: config[theirs] for ours, theirs in _OF_DECODER.items() if theirs in config}
    states, text = config.get("max_source_positions", 1500), config.get("max_target_positions", 448)
    if type(states) is int and type(text) is int:
        found["max_position_embeddings"] = _padded(states) + text
    return {**config, **found}


def read_speech_config(raw: Mapping[str, object]) -> SpeechConfig | None:
    """None: the model hears nothing. Raises ModelError naming key and value."""
    if raw.get("model_type") not in HEARING:
        return None
    keys = CheckedKeys("config.json", raw)
    return SpeechConfig(
        keys.integer("encoder_layers", most=4096),
        keys.integer("encoder_attention_heads", most=2**14),
        keys.integer("encoder_ffn_dim", most=2**22),
        keys.integer("num_mel_bins", most=4096, default=80),
        keys.integer("max_source_positions", most=2**20, default=1500),
        keys.integer("max_target_positions", most=2**20, default=448),
        keys.integer("decoder_start_token_id", most=2**24, default=50257),
    )


def _padded(states: int) -> int:
    return -(-states // AUDIO_MULTIPLE) * AUDIO_MULTIPLE
