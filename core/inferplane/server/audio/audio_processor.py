"""The parent's side of preparing recordings: one limited process for one checkpoint."""

from __future__ import annotations

from pathlib import Path

import msgspec

from inferplane.array_messages import decoder, encoder
from inferplane.errors import ModelError
from inferplane.interfaces import Array
from inferplane.limited_process import LimitedProcess, LimitExceeded
from inferplane.server.audio.audio_messages import (
    AudioBytes,
    AudioOf,
    Loaded,
    Recording,
    Samples,
    Spectrogram,
)

__all__ = ["AudioProcessor"]

_READ_S = 150.0
"""Wall clock; the process itself may burn two minutes of processor."""
_INSTALL = 'pip install "inferplane[audio]"'


class AudioProcessor:
    """Reads recordings for one model. Safe to share between threads; recordings take turns."""

    def __init__(self, folder: Path, most_s: float) -> None:
        """Starts nothing yet; `most_s` is the longest recording that is read."""
        self.folder = folder
        self.rate = 0
        """Samples a second, once started."""
        self.window = 0
        """Samples that the encoder hears at once."""
        self._process = LimitedProcess(
            "inferplane.server.audio.audio_child",
            msgspec.msgpack.encode(AudioOf(str(folder), most_s)),
            deadline_s=_READ_S,
        )
        self._encode = encoder()
        self._recordings = decoder(Recording)
        self._spectrograms = decoder(Spectrogram)

    def start(self) -> None:
        """Start the process, and see that it can read. Raises ModelError saying what is missing."""
        try:
            loaded = msgspec.msgpack.decode(self._process.start(), type=Loaded)
        except LimitExceeded as error:
            raise ModelError(f"recordings for {self.folder}: {error}") from None
        if loaded.fault:
            self._process.close()
            raise ModelError(
                f"recordings for {self.folder} cannot be prepared: {loaded.fault}; want "
                f"{_INSTALL}, and preprocessor_config.json beside the weights"
            )
        self.rate, self.window = loaded.rate, loaded.window

    def close(self) -> None:
        """End the process; a later recording starts it again."""
        self._process.close()

    def read(self, data: bytes) -> Recording:
        """The samples of a recording. Blocks for seconds, so event loops call it in a thread."""
        try:
            answer = self._process.call(self._encode(AudioBytes(data)))
        except LimitExceeded:
            return Recording(fault="it takes too long or too much memory to read")
        read: Recording = self._recordings(bytearray(answer))
        return read

    def hear(self, samples: Array) -> Spectrogram:
        """What the encoder reads of one window, i16[n]; blocks as `read` does."""
        try:
            answer = self._process.call(self._encode(Samples(samples)))
        except LimitExceeded:
            return Spectrogram(fault="it takes too long or too much memory to read")
        heard: Spectrogram = self._spectrograms(bytearray(answer))
        return heard
