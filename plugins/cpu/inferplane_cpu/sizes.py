"""Amounts of memory as people write them."""

from __future__ import annotations

import re

from inferplane.errors import ConfigError

__all__ = ["parse_bytes"]

_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)


def parse_bytes(name: str, text: str) -> int:
    """ "4GiB", "512 MB", "1.5g" or a plain number, in powers of 1024.

    Raises ConfigError naming the setting `name`.
    """
    match = _FORM.fullmatch(text.strip())
    amount = int(float(match[1]) * 1024 ** _UNITS[match[2].lower()]) if match else 0
    if amount <= 0:
        raise ConfigError(f"{name}={text!r}: expected an amount of memory such as 4GiB or 512MiB")
    return amount
