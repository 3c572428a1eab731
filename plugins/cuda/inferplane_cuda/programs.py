"""CUDA C++ compiled for the device at hand: NVRTC makes it, the driver loads and launches it.

Both come with torch's CUDA build (PyPI: cuda-bindings, nvidia-cuda-nvrtc); a kernel takes a fifth
of a second.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from importlib.resources import files
from typing import Any

import torch

from inferplane.errors import DeviceError

__all__ = ["Program", "compile_source", "compiler_problem", "read_source"]

Argument = torch.Tensor | int | None
"""A pointer, a 32-bit number, or a null pointer."""


class Program:
    """The functions of one source under one set of definitions, on the current device."""

    def __init__(
        self, package: str, names: Sequence[str], defined: Mapping[str, int], own: bool = False
    ) -> None:
        """Compile the files `names` of `package`, one after another as one source.

        `own`: with the instructions that this generation alone has. Raises DeviceError with the
        compiler's words.
        """
        driver: Any = import_module("cuda.bindings.driver")
        major, minor = torch.cuda.get_device_capability()
        source = read_source(package, names)
        arch = f"sm_{major}{minor}{'a' if own else ''}"
        machine_code = compile_source(source, names[-1], defined, arch)
        torch.cuda.synchronize()  # the device's context exists from here on
        self._driver = driver
        self._module = _ask(driver.cuModuleLoadData(machine_code), "loading")
        self._functions: dict[str, object] = {}
        self._units = torch.cuda.get_device_properties().multi_processor_count
        self._resident: dict[tuple[object, int, int], int] = {}
        self._allowed: dict[object, int] = {}
        self._attributes = [_early_start(driver)] if major >= 9 else []

    def function(self, name: str) -> object:
        """What `launch` takes. Raises DeviceError when the source has no such function."""
        if name not in self._functions:
            found = self._driver.cuModuleGetFunction(self._module, name.encode())
            self._functions[name] = _ask(found, name)
        return self._functions[name]

    def resident_blocks(self, function: object, threads: int, shared_bytes: int) -> int:
        """How many blocks the device holds at once; allows them so much on-chip memory.

        Ask before `launch`. Raises DeviceError when one block alone wants too much.
        """
        key = function, threads, shared_bytes
        if key not in self._resident:
            if shared_bytes > self._allowed.get(function, 0):
                self._allowed[function] = shared_bytes
                most = self._driver.CUfunction_attribute
                kind = most.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                _ask((*self._driver.cuFuncSetAttribute(function, kind, shared_bytes),), "memory")
            ask = self._driver.cuOccupancyMaxActiveBlocksPerMultiprocessor
            each = _ask(ask(function, threads, shared_bytes), "occupancy")
            self._resident[key] = int(each) * self._units
        return self._resident[key]

    def launch(
        self,
        function: object,
        grid: tuple[int, int],
        threads: int,
        arguments: Sequence[Argument],
        shared_bytes: int = 0,
    ) -> None:
        """Enqueue on torch's current stream; `grid` is of blocks of `threads`.

        From sm_90 on the kernel may begin before the one in front of it has ended (programmatic
        dependent launch): it waits itself (`griddepcontrol.wait`) before it reads what that one
        writes. Raises DeviceError when the driver refuses.
        """
        values = tuple(
            a.data_ptr() if isinstance(a, torch.Tensor) else 0 if a is None else a
            for a in arguments
        )
        kinds = tuple(ctypes.c_int if type(a) is int else ctypes.c_void_p for a in arguments)
        config = self._driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = *grid, 1
        config.blockDimX, config.blockDimY, config.blockDimZ = threads, 1, 1
        config.sharedMemBytes = shared_bytes
        config.hStream = torch.cuda.current_stream().cuda_stream
        config.attrs = self._attributes
        config.numAttrs = len(self._attributes)
        _ask(self._driver.cuLaunchKernelEx(config, function, (values, kinds), 0), "launching")


def _early_start(driver: Any) -> Any:
    attribute = driver.CUlaunchAttribute()
    kinds = driver.CUlaunchAttributeID
    attribute.id = kinds.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
    attribute.value.programmaticStreamSerializationAllowed = 1
    return attribute


def read_source(package: str, names: Sequence[str]) -> str:
    """The files of `package`, one after another."""
    return "\n".join(files(package).joinpath(name).read_text() for name in names)


def compile_source(source: str, name: str, defined: Mapping[str, int], arch: str) -> bytes:
    """Machine code for `arch` ("sm_90"). Raises DeviceError with the compiler's words."""
    compiler: Any = import_module("cuda.bindings.nvrtc")
    options = [f"--gpu-architecture={arch}", "--std=c++17"]
    options += [f"-D{key}={value}" for key, value in defined.items()]
    program = _ask(compiler.nvrtcCreateProgram(source.encode(), name.encode(), 0, [], []), name)
    done = compiler.nvrtcCompileProgram(program, len(options), [o.encode() for o in options])
    if int(done[0]):
        said = bytearray(_ask(compiler.nvrtcGetProgramLogSize(program), name))
        compiler.nvrtcGetProgramLog(program, said)
        raise DeviceError(f"{name} does not compile for {arch}: {said.decode().strip()}")
    machine_code = bytearray(_ask(compiler.nvrtcGetCUBINSize(program), name))
    _ask(compiler.nvrtcGetCUBIN(program, machine_code), name)
    compiler.nvrtcDestroyProgram(program)
    return bytes(machine_code)


@lru_cache(maxsize=1)
def compiler_problem() -> str:
    """Why nothing can be compiled, "" when it can."""
    try:
        answer = import_module("cuda.bindings.nvrtc").nvrtcVersion()
    except (ImportError, RuntimeError, OSError) as error:
        return f"no CUDA compiler: {error} (PyPI: pip install cuda-bindings nvidia-cuda-nvrtc)"
    return "" if not int(answer[0]) else f"the CUDA compiler does not answer: {answer[0]}"


def _ask(answer: tuple[Any, ...], what: str) -> Any:
    status, *values = answer
    if int(status):
        raise DeviceError(f"{what}: {getattr(status, 'name', status)}")
    return values[0] if values else None
