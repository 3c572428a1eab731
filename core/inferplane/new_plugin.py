"""Write a new plugin: a complete distribution that serves tokens and passes the kit as it is."""

from __future__ import annotations

import keyword
import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from inferplane.errors import ConfigError

__all__ = ["Variant", "line_count", "write_plugin"]

Variant: TypeAlias = Literal["narrow", "wide"]
"""narrow: its own executor, no torch; wide: parts of a torch device under the core's executor."""

_SUFFIX = ".tmpl"
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def write_plugin(name: str, folder: Path, variant: Variant = "narrow") -> Path:
    """Write the distribution `inferplane-NAME` into `folder`/inferplane-NAME and return that path.

    Raises ConfigError for a name that is no Python module name in lower case, an unknown variant,
    or a folder that exists.
    """
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ConfigError(
            f"{name!r} cannot name a plugin: lower-case letters, digits and _, such as mydevice"
        )
    if variant not in get_args(Variant):
        raise ConfigError(f"no variant {variant!r} (known: {', '.join(get_args(Variant))})")
    target = folder / f"inferplane-{name}"
    if target.exists():
        raise ConfigError(f"{target} exists: choose another name or folder")
    for parts, text in _template(files("inferplane") / "templates" / variant, ()):
        path = target.joinpath(*(_named(part, name) for part in parts))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_named(text, name), encoding="utf-8")
    return target


def line_count(folder: Path) -> int:
    """Lines of all files of a distribution that `write_plugin` made, comments included."""
    return sum(
        path.read_text(encoding="utf-8").count("\n") for path in folder.rglob("*") if path.is_file()
    )


def _template(folder: Traversable, at: tuple[str, ...]) -> list[tuple[tuple[str, ...], str]]:
    """(path without suffix, text) of every file of a template."""
    found = []
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.is_dir():
            found += _template(entry, (*at, entry.name))
        elif entry.name.endswith(_SUFFIX):
            text = entry.read_text(encoding="utf-8")
            found.append(((*at, entry.name.removesuffix(_SUFFIX)), text))
    return found


def _named(text: str, name: str) -> str:
    title = "".join(part.capitalize() for part in name.split("_"))
    return text.replace("acme", name).replace("Acme", title)
