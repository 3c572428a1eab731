"""`inferplane config`: which value each setting has, and who set it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from inferplane.cli.flags import Given, resolve_given, with_settings
from inferplane.config import ModelSettings, ServeSettings

__all__ = ["show_"]


@with_settings(ModelSettings, ServeSettings)
def show_(given: Given, *, json_: bool = False) -> int:
    """Print value and origin of each setting, as a command with these flags would see them."""
    resolved = resolve_given(given)
    shown = {
        one.key: "(hidden)"
        if one.secret and resolved.values[one.name]
        else resolved.values[one.name]
        for one in given.settings
    }
    sources = {one.key: resolved.sources[one.name] for one in given.settings}
    if json_:
        rows = {key: {"value": value, "source": sources[key]} for key, value in shown.items()}
        print(json.dumps(rows, indent=2, default=_plain))
        return 0
    width = max(map(len, shown))
    for key, value in shown.items():
        origin = "" if sources[key] == "default" else f"   ({sources[key]})"
        print(f"{key:{width}}  {json.dumps(value, default=_plain)}{origin}")
    return 0


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"no JSON form for {type(value).__name__}")
