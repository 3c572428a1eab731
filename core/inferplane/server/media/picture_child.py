"""Decodes strangers' pictures and prepares them for a model, in a limited process.

Started with `-m` by `picture_processor.py`. What happens to the pixels and which tokens stand for
them is the transformers library's own processor of the checkpoint, whose code is never the
checkpoint's.
"""

from __future__ import annotations

import inspect
import io
import os
import tempfile
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from inferplane.array_messages import encoder
from inferplane.limited_process import answer_messages
from inferplane.server.media.picture_messages import (
    Loaded,
    PictureBytes,
    PicturesOf,
    ReadPicture,
)

__all__ = ["Preparer", "Unusable", "decoded", "main"]

MEMORY_BYTES = 2 << 30
CPU_S = 20
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_MOST_RATIO = 200
"""Longer side / shorter side: beyond, resizing to the model's size makes a line of nothing."""
_SAME_BUT_FOR_VIDEO = {"SmolVLMProcessor": "Idefics3Processor"}
_OF_TEXT = frozenset(("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"))


class Unusable(Exception):
    """Why a picture cannot be used, in words for a client."""


def decoded(data: bytes, most_pixels: int) -> Any:
    """The first frame as an RGB picture of Pillow. Raises Unusable.

    The size is checked before a pixel is decoded.
    """
    library: Any = import_module("PIL.Image")
    library.MAX_IMAGE_PIXELS = most_pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = library.open(io.BytesIO(data), formats=_FORMATS)
            _check_size(picture.size, most_pixels)
            picture.seek(0)
            picture.load()
            return _on_white(library, picture)
    except (Unusable, MemoryError):
        raise
    except library.DecompressionBombError:  # before our own check could see the size
        raise Unusable(f"it has too many pixels; at most {most_pixels} are read") from None
    except Exception:  # decoders raise what they like, and say what no client should read
        raise Unusable("it is no whole PNG, JPEG, WebP or GIF picture") from None


def _check_size(size: tuple[int, int], most_pixels: int) -> None:
    width, height = size
    if min(size) < 1:
        raise Unusable("it has no pixels")
    if width * height > most_pixels:
        raise Unusable(f"it has {width} x {height} pixels; at most {most_pixels} are read")
    if max(size) > _MOST_RATIO * min(size):
        raise Unusable(
            f"it has {width} x {height} pixels; one side may be {_MOST_RATIO} times the other"
        )


def _on_white(library: Any, picture: Any) -> Any:
    """What is transparent shows white, as on a page."""
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        seen = picture.convert("RGBA")
        page = library.new("RGBA", seen.size, (255, 255, 255, 255))
        return library.alpha_composite(page, seen).convert("RGB")
    return picture.convert("RGB")


class Preparer:
    """The processor of one checkpoint."""

    def __init__(self, of: PicturesOf) -> None:
        """Raises what the library raises where something is missing."""
        self.of = of
        self._processor = _load(Path(of.folder))
        self.prepare(import_module("PIL.Image").new("RGB", (32, 24)))

    def read(self, data: bytes) -> ReadPicture:
        """What stands for one picture."""
        try:
            return self.prepare(decoded(data, self.of.most_pixels))
        except Unusable as unusable:
            return ReadPicture(fault=str(unusable))

    def prepare(self, picture: Any) -> ReadPicture:
        """Arrays and tokens of a decoded picture."""
        made = self._processor(
            images=[picture],
            text=[self.of.image_token],
            return_tensors="np",
            add_special_tokens=False,
        )
        ids = [int(id) for id in np.asarray(made["input_ids"]).reshape(-1)]
        if self.of.image_token_id not in ids:
            raise LookupError("the processor leaves no placeholder")
        arrays = {
            name: np.ascontiguousarray(value)
            for name, value in made.items()
            if name not in _OF_TEXT
        }
        return ReadPicture(ids, arrays)


def _load(folder: Path) -> Any:
    """The processor, with its image part over Pillow: videos and their libraries are not needed."""
    library: Any = import_module("transformers")
    library.logging.set_verbosity_error()
    own = {"trust_remote_code": False, "local_files_only": True}
    parts = {
        "image_processor": library.AutoImageProcessor.from_pretrained(folder, backend="pil", **own),
        "tokenizer": library.AutoTokenizer.from_pretrained(folder, **own),
    }
    stated = _stated(folder)
    name = str(stated.get("processor_class"))
    kind = getattr(library, _SAME_BUT_FOR_VIDEO.get(name, name))
    known = inspect.signature(kind.__init__).parameters
    given = {key: value for key, value in stated.items() if key in known} | parts
    if "video_processor" in known:
        kind, given["video_processor"] = _blind_to_videos(kind), None
    return kind(**given)


def _stated(folder: Path) -> dict[str, Any]:
    """What the checkpoint says of its processor, the newer file last."""
    made: dict[str, Any] = {}
    for name in ("tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        path = folder / name
        if path.is_file():
            found = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
            made |= found if name == "processor_config.json" else _class_of(found)
    return made


def _class_of(found: dict[str, Any]) -> dict[str, Any]:
    return {key: found[key] for key in ("processor_class",) if key in found}


def _blind_to_videos(kind: Any) -> Any:
    """The class, which then takes None for the part that reads videos."""

    def check(self: Any, name: str, part: object) -> object:
        return (
            None
            if name == "video_processor"
            else kind.check_argument_for_proper_class(self, name, part)
        )

    return type(kind.__name__, (kind,), {"check_argument_for_proper_class": check})


def main() -> None:
    """Answer a PicturesOf, then PictureBytes."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    tempfile.gettempdir()  # found by writing, which is over once messages are answered
    preparer: list[Preparer] = []
    pictures = msgspec.msgpack.Decoder(PictureBytes)
    encode = encoder()

    def handle(message: bytes) -> bytes:
        if preparer:
            return encode(preparer[0].read(pictures.decode(message).data))
        try:
            preparer.append(Preparer(msgspec.msgpack.decode(message, type=PicturesOf)))
        except ImportError as error:
            return encode(Loaded(f"{error.name or 'a library'} is missing"))
        except Exception as error:  # the operator's files; a library raises what it likes
            return encode(Loaded(f"{type(error).__name__}: {error}"))
        return encode(Loaded())

    answer_messages(
        handle,
        memory_bytes=MEMORY_BYTES,
        cpu_s=CPU_S,
        out_of_memory=encode(ReadPicture(fault="it needs too much memory")),
        limit_greeting=False,
    )


if __name__ == "__main__":
    main()
