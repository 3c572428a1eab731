"""Who decides whether tiles are used, and that no check can take the server with it."""

from __future__ import annotations

from ctypes import CDLL, c_char_p
from pathlib import Path
from typing import Any

import pytest

from inferplane.errors import ConfigError
from inferplane_cpu.compiler.step_compiler import StepCompiler
from inferplane_cpu.native.machine import Machine
from inferplane_cpu.native.tiles import NO_TILES, TILE_FLAGS, VARIABLE, Tiles, choose_tiles

STAND_IN = """
#include <csignal>
#include <cstdlib>
extern "C" const char* ip_tiles_refused() { return REFUSED; }
extern "C" const char* ip_check_tiles() { CHECK; }
"""
ENDINGS = {
    "return nullptr": Tiles(True),
    'return "a product is off"': Tiles(False, "a product is off"),
    "std::raise(SIGILL); return nullptr": Tiles(False, "the check died of SIGILL"),
    "std::raise(SIGSEGV); return nullptr": Tiles(False, "the check died of SIGSEGV"),
}


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other tests run without tiles."""
    monkeypatch.delenv(VARIABLE, raising=False)


def stand_in(compiler: Any, folder: Path, check: str, refused: str = "nullptr") -> CDLL:
    """A library that answers as told."""
    source = folder / "stand_in.cpp"
    source.write_text(STAND_IN.replace("REFUSED", refused).replace("CHECK", check))
    library = CDLL(str(compiler.compile(folder / "stand_in.so", [], [source])))
    library.ip_tiles_refused.restype = c_char_p
    return library


@pytest.mark.parametrize("check", ENDINGS)
def test_however_the_check_ends_the_server_goes_on(
    compiler: Any, tmp_path: Path, check: str
) -> None:
    assert choose_tiles(TILE_FLAGS, stand_in(compiler, tmp_path, check)) == ENDINGS[check]


def test_a_system_that_permits_no_tiles_is_not_checked(compiler: Any, tmp_path: Path) -> None:
    library = stand_in(compiler, tmp_path, "std::abort()", '"not permitted"')
    assert choose_tiles(TILE_FLAGS, library) == Tiles(False, "not permitted")


def test_without_the_flags_or_by_wish_nothing_is_asked(compiler: Any, tmp_path: Path) -> None:
    library = stand_in(compiler, tmp_path, "std::abort()", "(std::abort(), nullptr)")
    assert choose_tiles(["avx2", "amx_tile"], library) is NO_TILES
    assert choose_tiles(TILE_FLAGS, library, "off") is NO_TILES


def test_the_check_of_the_kernels_passes_on_emulated_tiles(tiled: Machine) -> None:
    assert choose_tiles(TILE_FLAGS, tiled.library) == Tiles(True)


def test_other_values_of_the_option_are_refused(tiled: Machine) -> None:
    with pytest.raises(ConfigError, match="amx='on': expected auto or off"):
        choose_tiles((), tiled.library, "on")


def test_the_environment_says_what_the_option_does_not(
    tiled: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "off")
    assert choose_tiles(TILE_FLAGS, tiled.library) is NO_TILES
    assert choose_tiles(TILE_FLAGS, tiled.library, "auto") == Tiles(True)


def test_a_refusal_is_counted(tiled: Machine) -> None:
    compiler = StepCompiler(tiled, 64, 1, {"matrix tiles": 1})
    assert compiler.stats().fallbacks == {"matrix tiles": 1}


def test_the_built_library_asks_this_processor_itself(machine: Machine) -> None:
    """Flags may say anything: a library never uses tiles that are not there."""
    if machine.library.ip_tiles_refused() is None:
        pytest.skip("this processor has AMX")
    refused = choose_tiles(TILE_FLAGS, machine.library).refused
    assert "no AMX" in refused or "without kernels for tiles" in refused
