"""CUDA C++ on a processor: instructions in the source become calls, and g++ compiles the rest."""

from __future__ import annotations

import ctypes
import hashlib
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from inferplane.errors import DeviceError
from inferplane_cuda.programs import Argument, read_source

_HERE = Path(__file__).parent
_ASM = re.compile(r"\basm\s*(?:volatile\s*)?\(")
_ASKED_FOR = re.compile(r"extern __shared__ (?:__align__\(\d+\) )?(\w+) (\w+)\[\];")
_TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')
_OPERAND = re.compile(r'"[=+&]*\w"\s*\((.*)\)', re.DOTALL)
_MARK = re.compile(r'"(?:[^"\\]|\\.)*"|[\[({]|[\])}]|[:,]')


class EmulatedProgram:
    """Stands in for `Program`: host memory, and blocks that live on threads of the processor.

    `eager`: copies to on-chip memory arrive at once, else as late as they may.
    """

    def __init__(
        self,
        build: Callable[[str, Mapping[str, int]], ctypes.CDLL],
        package: str,
        names: Sequence[str],
        defined: Mapping[str, int],
        own: bool = False,
        eager: bool = False,
    ) -> None:
        self._build = build
        self._source = read_source(package, names)
        self._defined = {**defined, "EAGER": int(eager)}
        if own:
            self._defined["__CUDA_ARCH_FEAT_SM90_ALL"] = 1

    def function(self, name: str) -> ctypes.CDLL:
        """What `launch` takes."""
        entry = 'extern "C" const char* launch(int* sizes, void** arguments) {'
        entry += f" return launch_kernel({name}, sizes, arguments); }}"
        found = self._build(f"{self._source}\n{entry}", self._defined)
        found.launch.restype = ctypes.c_char_p
        return found

    def resident_blocks(self, function: ctypes.CDLL, threads: int, shared_bytes: int) -> int:
        """So few that each takes several tiles."""
        return 2

    def launch(
        self,
        function: ctypes.CDLL,
        grid: tuple[int, int],
        threads: int,
        arguments: Sequence[Argument],
        shared_bytes: int = 0,
    ) -> None:
        """Done when it returns. Raises DeviceError where a lane traps."""
        held = [
            ctypes.c_int(one)
            if isinstance(one, int)
            else ctypes.c_void_p(None if one is None else one.data_ptr())
            for one in arguments
        ]
        places = (ctypes.c_void_p * len(held))(*(ctypes.addressof(one) for one in held))
        if problem := function.launch((ctypes.c_int * 3)(*grid, threads), places):
            raise DeviceError(problem.decode())


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., EmulatedProgram]:
    """Makes programs as `Program` does. Skips where there is no C++ compiler."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler here")
    folder = tmp_path_factory.mktemp("emulated")

    def build(source: str, defined: Mapping[str, int]) -> ctypes.CDLL:
        flags = [f"-D{key}={value}" for key, value in defined.items()]
        told = subprocess.run(
            [str(compiler), "-E", "-P", "-x", "c++", *flags, "-"],
            input=source, check=True, capture_output=True, text=True,
        )  # fmt: skip
        headers = '#include "emulated_device.hpp"\n#include "emulated_ptx.hpp"\n'
        whole = headers + as_calls(told.stdout)
        name = hashlib.sha256((whole + str(flags)).encode()).hexdigest()[:16]
        library = folder / f"{name}.so"
        if not library.exists():
            (folder / f"{name}.cpp").write_text(whole)
            options = ["-std=c++17", "-O1", "-fpermissive", "-w", f"-I{_HERE}", *flags]
            options += ["-shared", "-fPIC", "-pthread", "-o", str(library), f"{folder}/{name}.cpp"]
            subprocess.run([str(compiler), *options], check=True)
        return ctypes.CDLL(str(library))

    def made(
        package: str,
        names: Sequence[str],
        defined: Mapping[str, int],
        own: bool = False,
        eager: bool = False,
    ) -> EmulatedProgram:
        return EmulatedProgram(build, package, names, defined, own, eager)

    return made


def as_calls(source: str) -> str:
    """Preprocessed CUDA C++ with a call for each asm statement, and on-chip memory of a thread.

    A call's name is that of the instructions, its arguments what is written, what is read, and the
    numbers in the text.
    """
    out, at = [], 0
    for found in _ASM.finditer(source):
        end = _end_of(source, found.end())
        out += [source[at : found.start()], _call(source[found.end() : end - 1])]
        at = end
    asked_for = r"\1* const \2 = reinterpret_cast<\1*>(on_chip_memory);"
    whole = _ASKED_FOR.sub(asked_for, "".join((*out, source[at:])))
    return whole.replace("__shared__", "static thread_local")


def _call(statement: str) -> str:
    text, *operands = _split(statement, ":")
    listed = [
        operand.group(1)
        for part in operands[:2]
        for one in _split(part, ",")
        if (operand := _OPERAND.match(one.strip()))
    ]
    template = "".join(_TEXT.findall(text)).strip("{} ")
    instructions = [one.strip() for one in template.split(";")]
    instructions = [one for one in instructions if one and not one.startswith(".reg")]
    names = [re.sub(r"\W+", "_", one.split()[0]) for one in instructions]
    rest = " ".join(one.partition(" ")[2] for one in instructions)
    numbers = re.findall(r"(?<![%\w])(?:0x[0-9a-fA-F]+|\d+)\b", rest)
    return f"{'_'.join(names) or 'nothing'}({', '.join((*listed, *numbers))})"


def _end_of(source: str, at: int) -> int:
    """Behind the parenthesis that closes what was opened before `at`."""
    depth = 1
    for place in _MARK.finditer(source, at):
        depth += {"(": 1, ")": -1}.get(place.group(), 0)
        if not depth:
            return place.end()
    raise ValueError("an asm statement has no end")


def _split(text: str, by: str) -> list[str]:
    """The parts between marks that no parenthesis or text holds."""
    parts, depth, last = [], 0, 0
    for place in _MARK.finditer(text):
        mark = place.group()
        depth += {"[": 1, "(": 1, "{": 1, "]": -1, ")": -1, "}": -1}.get(mark, 0)
        if mark == by and not depth:
            parts.append(text[last : place.start()])
            last = place.end()
    return [*parts, text[last:]]
