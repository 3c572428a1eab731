"""`inferplane plugins new`: a complete plugin from a template, that runs as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from inferplane.new_plugin import Variant, line_count, write_plugin

__all__ = ["new_"]


def new_(
    name: Annotated[str, Parameter(help="What --device will take: lower-case letters, digits, _.")],
    *,
    variant: Annotated[
        Variant,
        Parameter(help="narrow: its own executor, no torch; wide: parts of a torch device."),
    ] = "narrow",
    folder: Annotated[Path, Parameter(help="Where inferplane-NAME is made.")] = Path(),
) -> int:
    """Write a new device plugin: it serves tokens and passes the kit before any edit."""
    target = write_plugin(name, folder, variant)
    print(f"wrote {target} ({line_count(target)} lines). Next:")
    print(f"  pip install -e '{target}[test]'")
    print(f"  pytest {target}")
    print(f"  inferplane serve --device {name}")
    return 0
