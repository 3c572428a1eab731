"""Decodes strangers' recordings and prepares them for a model, in a limited process.

Started with `-m` by `audio_processor.py`. PyAV, which is FFmpeg's libraries, decodes and resamples;
spectrograms are the transformers library's own feature extractor's.
"""

from __future__ import annotations

import io
import os
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from inferplane.array_messages import decoder, encoder
from inferplane.limited_process import answer_messages
from inferplane.server.audio.audio_messages import (
    AudioBytes,
    AudioOf,
    Loaded,
    Recording,
    Samples,
    Spectrogram,
)

__all__ = ["Listener", "Unusable", "container_of", "main"]

MEMORY_BYTES = 2 << 30
CPU_S = 120
_FULL_SCALE = 32768.0


class Unusable(Exception):
    """Why a recording cannot be used, in words for a client."""


def container_of(data: bytes) -> str:
    """FFmpeg's name of the container, by its first bytes. Raises Unusable.

    Named, so that no other demuxer is tried: some open further files and addresses.
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "wav"
    if data[4:8] == b"ftyp":
        return "mp4"
    starts = ((b"fLaC", "flac"), (b"OggS", "ogg"), (b"\x1aE\xdf\xa3", "matroska"), (b"ID3", "mp3"))
    for start, name in starts:
        if data.startswith(start):
            return name
    if len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0:
        return "mp3"
    raise Unusable("it is no wav, flac, ogg, mp3, m4a, mp4, mpga or webm file")


class Listener:
    """The feature extractor of one checkpoint."""

    def __init__(self, of: AudioOf) -> None:
        """Raises what the library raises where something is missing."""
        import_module("av")
        library: Any = import_module("transformers")
        library.logging.set_verbosity_error()
        self._extractor = library.WhisperFeatureExtractor.from_pretrained(
            Path(of.folder), local_files_only=True
        )
        self.rate = int(self._extractor.sampling_rate)
        self.window = int(self._extractor.n_samples)
        self._most = int(of.most_s * self.rate)
        self._most_s = of.most_s
        self.hear(np.zeros(self.rate, np.int16))

    def read(self, data: bytes) -> Recording:
        """The samples of a recording."""
        try:
            return Recording(self.decoded(data))
        except Unusable as unusable:
            return Recording(fault=str(unusable))
        except MemoryError:
            raise
        except Exception:  # decoders raise what they like, and say what no client should read
            return Recording(fault="it is damaged, or holds a codec that is not read")

    def decoded(self, data: bytes) -> Any:
        """i16[n]. Raises Unusable, and what the library raises."""
        library: Any = import_module("av")
        parts, size = [], 0
        with library.open(io.BytesIO(data), format=container_of(data)) as file:
            if not file.streams.audio:
                raise Unusable("it holds no sound")
            resampler = library.AudioResampler(format="s16", layout="mono", rate=self.rate)
            for frame in _frames(file):
                for made in resampler.resample(frame):
                    part = made.to_ndarray().reshape(-1)
                    parts.append(part)
                    size += len(part)
                if size > self._most:
                    raise Unusable(f"it lasts longer than {self._most_s:g} s")
        if not size:
            raise Unusable("it holds no sound")
        return np.concatenate(parts)

    def hear(self, samples: Any) -> Spectrogram:
        """What the encoder reads of one window."""
        heard = samples.astype(np.float32) / _FULL_SCALE
        made = self._extractor(heard, sampling_rate=self.rate, return_tensors="np")
        return Spectrogram(np.ascontiguousarray(made["input_features"][0], np.float32))


def _frames(file: Any) -> Any:
    """Of the first audio stream, then None, which empties the resampler."""
    yield from file.decode(audio=0)
    yield None


def main() -> None:
    """Answer an AudioOf, then AudioBytes and Samples."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    tempfile.gettempdir()  # found by writing, which is over once messages are answered
    listener: list[Listener] = []
    asked = decoder(AudioBytes | Samples)
    encode = encoder()

    def handle(message: bytes) -> bytes:
        if listener:
            found = asked(bytearray(message))
            if isinstance(found, AudioBytes):
                return encode(listener[0].read(found.data))
            return encode(listener[0].hear(found.samples))
        try:
            made = Listener(msgspec.msgpack.decode(message, type=AudioOf))
        except ImportError as error:
            return encode(Loaded(fault=f"{error.name or 'a library'} is missing"))
        except Exception as error:  # the operator's files; a library raises what it likes
            return encode(Loaded(fault=f"{type(error).__name__}: {error}"))
        listener.append(made)
        return encode(Loaded(made.rate, made.window))

    answer_messages(
        handle,
        memory_bytes=MEMORY_BYTES,
        cpu_s=CPU_S,
        out_of_memory=encode(Recording(fault="it needs too much memory")),
        limit_greeting=False,
    )


if __name__ == "__main__":
    main()
