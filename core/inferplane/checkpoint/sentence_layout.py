"""What a folder in the sentence-transformers layout says beyond the model itself.

modules.json lists the parts of the computation in order; 1_Pooling/config.json and
sentence_bert_config.json hold their settings. Files of GGUF models say the same in metadata.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from inferplane.checkpoint.files import Checkpoint, parse_object, read_object, read_text
from inferplane.errors import ModelError

__all__ = ["Pooling", "SentenceLayout", "read_sentence_layout"]

Pooling = Literal["mean", "cls", "last"]
"""Which hidden state stands for a whole text."""

_MAX_BYTES = 64 * 1024
_MODES: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
_NAMED: dict[object, Pooling] = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
_GGUF: dict[object, Pooling] = {1: "mean", 2: "cls", 3: "last"}
_KNOWN = ("Transformer", "Pooling", "Dense", "Normalize")
"""Parts that are computed, in the one order in which they are."""


@dataclass(frozen=True, slots=True)
class SentenceLayout:
    """Nothing is said where everything has its default."""

    is_one: bool = False
    """The files were made for embeddings."""
    pooling: Pooling | None = None
    normalize: bool = True
    """Vectors have length 1 unless a request asks for raw ones."""
    max_tokens: int | None = None
    """The longest text the model was made for."""
    dense: tuple[Path, ...] = ()
    """Folders of the linear layers between pooling and normalisation, in order."""


def read_sentence_layout(checkpoint: Checkpoint) -> SentenceLayout:
    """What the files say. Raises ModelError for damaged ones, and for parts nobody computes."""
    if checkpoint.format == "gguf":
        architecture = checkpoint.metadata.get("general.architecture", "")
        pooling = _GGUF.get(checkpoint.metadata.get(f"{architecture}.pooling_type"))
        return SentenceLayout(pooling is not None, pooling)
    root = checkpoint.root
    modules = _modules(root / "modules.json")
    pooling = _pooling(root, modules)
    return SentenceLayout(
        is_one=bool(modules) or pooling is not None,
        pooling=pooling,
        normalize=any(kind == "Normalize" for kind, _ in modules) if modules else True,
        max_tokens=_max_tokens(root / "sentence_bert_config.json") if modules else None,
        dense=tuple(root / folder for kind, folder in modules if kind == "Dense"),
    )


def _modules(path: Path) -> list[tuple[str, str]]:
    """(kind, folder) of each part."""
    if not path.is_file():
        return []
    # the parser of objects bounds and checks; the file holds a list
    text = read_text(path, _MAX_BYTES)
    parts = parse_object(b'{"modules":%s}' % text.encode(), str(path))["modules"]
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise ModelError(f"{path}: holds no list of modules")
    found: list[tuple[str, str]] = []
    for part in parts:
        kind, folder = str(part.get("type", "")).rpartition(".")[2], str(part.get("path", ""))
        if kind not in _KNOWN:
            raise ModelError(
                f"{path}: module {kind!r} is not computed here (known: {', '.join(_KNOWN)}): its "
                "vectors would be wrong"
            )
        if Path(folder).name != folder:
            raise ModelError(f"{path}: module path {folder!r} is no folder beside it")
        found.append((kind, folder))
    places = [_KNOWN.index(kind) for kind, _ in found]
    if places != sorted(places):
        told = ", ".join(kind for kind, _ in found)
        raise ModelError(f"{path}: the order {told} is not computed here, only {', '.join(_KNOWN)}")
    return found


def _pooling(root: Path, modules: list[tuple[str, str]]) -> Pooling | None:
    path = root / (dict(modules).get("Pooling") or "1_Pooling") / "config.json"
    if not path.is_file():
        return None
    said = read_object(path, _MAX_BYTES)
    asked = [key for key, value in said.items() if key.startswith("pooling_mode_") and value]
    if isinstance(said.get("pooling_mode"), str):
        named = _NAMED.get(said["pooling_mode"])
    else:
        named = _MODES.get(asked[0]) if len(asked) == 1 else None
    if named is None:
        told = said.get("pooling_mode") or ", ".join(asked) or "nothing"
        raise ModelError(f"{path}: pools by {told}; mean, cls or lasttoken is accepted, one alone")
    return named


def _max_tokens(path: Path) -> int | None:
    if not path.is_file():
        return None
    found = read_object(path, _MAX_BYTES).get("max_seq_length")
    if found is None:
        return None
    if type(found) is not int or not 1 <= found < 2**31:
        raise ModelError(f"{path}: max_seq_length is {found!r}, needs a whole number above 0")
    return found
