"""What crosses between `audio_processor.py` and the process that decodes; loads no library."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["AudioBytes", "AudioOf", "Loaded", "Recording", "Samples", "Spectrogram"]


class AudioOf(msgspec.Struct, frozen=True):
    """The checkpoint this process is for."""

    folder: str
    most_s: float
    """Longest recording that is read."""


class Loaded(msgspec.Struct, frozen=True):
    """That the feature extractor is there; `fault` says why it is not."""

    rate: int = 0
    """Samples a second."""
    window: int = 0
    """Samples that the encoder hears at once."""
    fault: str = ""


class AudioBytes(msgspec.Struct, frozen=True, tag="bytes"):
    """One recording as a client sent it."""

    data: bytes


class Samples(msgspec.Struct, frozen=True, tag="samples"):
    """One window of it."""

    samples: Any
    """i16[n], n at most `Loaded.window`."""


class Recording(msgspec.Struct, frozen=True):
    """One channel at the model's rate, or why there is none."""

    samples: Any = None
    """i16[n]"""
    fault: str = ""
    """Fit for a client: made of our own words alone."""


class Spectrogram(msgspec.Struct, frozen=True):
    """What the encoder reads of one window."""

    features: Any = None
    """f32[mel bins, frames]"""
    fault: str = ""
