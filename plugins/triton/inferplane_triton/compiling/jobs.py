"""One kernel to compile, as a message between processes; knows Triton and no device."""

from __future__ import annotations

import ast
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.compiler import compile as compile_source
from triton.runtime.cache import get_cache_key, get_cache_manager

__all__ = ["Job", "as_line", "compile_job", "is_stored", "job_of", "stored_under"]

_LAUNCHERS = {
    "cuda": ("triton.backends.nvidia.driver", "CudaLauncher"),
    "hip": ("triton.backends.amd.driver", "HIPLauncher"),
}


@dataclass(frozen=True, slots=True)
class Job:
    """What `triton.compile` needs; its parts are plain values, so that they travel."""

    module: str
    function: str
    signature: Mapping[str, str]
    constants: Mapping[tuple[int, ...], Any]
    attributes: Mapping[tuple[int, ...], Any]
    options: Mapping[str, Any]
    target: tuple[str, Any, int]


def as_line(job: Job) -> bytes:
    """The job as one line of Python literals."""
    parts = (
        job.module, job.function, dict(job.signature), dict(job.constants), dict(job.attributes),
        dict(job.options), tuple(job.target),
    )  # fmt: skip
    return repr(parts).encode() + b"\n"


def job_of(line: bytes) -> Job:
    """What `as_line` wrote. Raises ValueError or SyntaxError where a part is no literal."""
    return Job(*ast.literal_eval(line.decode()))


def compile_job(job: Job) -> float:
    """Seconds until the kernel, and the stub that launches it, lie in Triton's cache on disk.

    Raises what the compiler raises. A stub that cannot be built here is built at its first launch.
    """
    began = time.perf_counter()
    source = _source(job)
    made = compile_source(source, target=GPUTarget(*job.target), options=dict(job.options))
    module, name = _LAUNCHERS.get(job.target[0], ("", ""))
    if module:
        try:
            getattr(import_module(module), name)(source, made.metadata)
        except Exception:  # no driver to link with, or a Triton that needs no stub
            return time.perf_counter() - began
    return time.perf_counter() - began


def stored_under(job: Job) -> tuple[str, str]:
    """(key, file) by which Triton's cache on disk holds the kernel."""
    source = _source(job)
    backend = make_backend(GPUTarget(*job.target))
    options = backend.parse_options(dict(job.options))
    key = get_cache_key(source, backend, options, env_vars=_env_vars())
    return hashlib.sha256(key.encode()).hexdigest(), f"{source.name[:150]}.json"


def is_stored(key: str, file: str) -> bool:
    """Whether Triton's cache holds such a kernel."""
    return file in (get_cache_manager(key).get_group(file) or {})


def _source(job: Job) -> Any:
    function = getattr(import_module(job.module), job.function)
    return ASTSource(function, dict(job.signature), dict(job.constants), dict(job.attributes))


def _env_vars() -> Any:
    from triton._C.libtriton import get_cache_invalidating_env_vars  # where 3.5 to 3.7 keep it

    return get_cache_invalidating_env_vars()
