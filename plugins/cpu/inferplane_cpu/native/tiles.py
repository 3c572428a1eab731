"""Whether the kernels for matrix tiles (AMX) run: processor, user, system and a check decide.

The check multiplies by tiles and by vectors and compares, in a process of its own: whatever a
processor or hypervisor that nobody has seen makes of the instructions can only turn them off.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from ctypes import CDLL
from dataclasses import dataclass

from inferplane.errors import ConfigError

__all__ = ["NO_TILES", "OPTION", "TILE_FLAGS", "VARIABLE", "Tiles", "check_option", "choose_tiles"]

OPTION = "amx"
VARIABLE = "IP_CPU_AMX"
"""Of the environment: what the option is where it is not given."""
TILE_FLAGS = frozenset(("amx_tile", "amx_bf16", "amx_int8"))
_VALUES = ("auto", "off")
_CHECK_S = 60
_CHECK = """
import ctypes, sys
check = ctypes.CDLL(sys.argv[1]).ip_check_tiles
check.restype = ctypes.c_char_p
sys.exit((check() or b"").decode() or 0)
"""


@dataclass(frozen=True, slots=True)
class Tiles:
    """The decision for one process."""

    on: bool
    refused: str = ""
    """Why a processor that has tiles runs without them; empty where it has none, or by wish."""


NO_TILES = Tiles(False)


def check_option(asked: str) -> str:
    """`auto` or `off`; "" is auto. Raises ConfigError for anything else."""
    if asked and asked not in _VALUES:
        raise ConfigError(f"option {OPTION}={asked!r}: expected {' or '.join(_VALUES)}")
    return asked or _VALUES[0]


def choose_tiles(flags: Iterable[str], library: CDLL, asked: str = "") -> Tiles:
    """Decide for this process and, where the answer is yes, get the system's permission for it.

    `flags`: the processor's; `library`: as from `load_library`; `asked`: the option's value, "" =
    what the environment says. Raises ConfigError as `check_option`.
    """
    asked = asked or os.environ.get(VARIABLE, "")
    if check_option(asked) == "off" or not TILE_FLAGS.issubset(flags):
        return NO_TILES
    refused: bytes | None = library.ip_tiles_refused()
    reason = refused.decode() if refused else _checked(library._name)
    return Tiles(not reason, reason)


def _checked(path: str) -> str:
    """Empty, or why the library at `path` may not use tiles here."""
    if not sys.executable:
        return "no interpreter to check the kernels with"
    # isolated and without site-packages: the check needs neither, and starts in a few milliseconds
    command = [sys.executable, "-I", "-S", "-c", _CHECK, path]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_CHECK_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"the check did not end within {_CHECK_S} s"
    except OSError as error:
        return f"the check did not start: {error}"
    if done.returncode < 0:
        return f"the check died of {signal.Signals(-done.returncode).name}"
    return done.stderr.strip() if done.returncode else ""
