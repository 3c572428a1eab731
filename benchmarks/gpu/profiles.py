"""Where the time of a step goes: device kernels by name, and the host's functions."""

from __future__ import annotations

import cProfile
import io
import pstats
import time
from pathlib import Path
from typing import Any

import torch
from session import Session
from torch.profiler import ProfilerActivity, profile

__all__ = ["profile_steps"]


def profile_steps(session: Session, vocab: int, folder: str) -> dict[str, Any]:
    """Batch 1, batch 256 at about 1,000 tokens, and one long prompt."""
    many = [[(31 * i + 7 * j) % (vocab - 10) + 5 for j in range(960)] for i in range(256)]
    fresh = [[(17 * i + 11 * j) % (vocab - 10) + 5 for j in range(1024)] for i in range(8)]
    long = [(29 * j) % (vocab - 10) + 5 for j in range(8192)]
    cases = {
        "batch 1": ([many[0][:512]], [48], 8, 32),
        "batch 256, decodes": (many, [64] * 256, 48, 10),
        "prompts 8 x 1024": (fresh, [1] * 8, 0, 1),
        "prompt 8192": ([long], [1], 0, 1),
    }
    found = {}
    for name, case in cases.items():
        found[name] = device_profile(session, case, name, folder)
    found["host, batch 1"] = host_profile(session, [many[2][:512]], [256])
    found["host, batch 256"] = host_profile(session, [p[:64] for p in many], [64] * 256)
    return found


_WAITS = (
    "cudaDeviceSynchronize",
    "cudaStreamSynchronize",
    "cudaEventSynchronize",
    "cudaMemcpy",
)
Case = tuple[list[list[int]], list[int], int, int]
"""Prompts, outputs, steps to pass before the profile begins, steps it lasts."""


def device_profile(session: Session, case: Case, name: str, folder: str) -> dict[str, Any]:
    """Device time by kernel; "busy" is its share of the wall time."""
    prompts, outputs, skipped, lasting = case
    seen = profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU])
    clock = {"step": 0, "began": 0.0, "wall": 0.0}

    def each_step() -> None:
        clock["step"] += 1
        if clock["step"] == skipped:
            begin()
        elif clock["step"] == skipped + lasting:
            end()

    def begin() -> None:
        torch.cuda.synchronize()
        seen.start()
        clock["began"] = time.perf_counter()

    def end() -> None:
        torch.cuda.synchronize()
        clock["wall"] = time.perf_counter() - clock["began"]
        seen.stop()

    if not skipped:
        begin()
    session.generate(prompts, outputs, each_step)
    wall = clock["wall"]
    totals: dict[str, list[float]] = {}
    for event in seen.events():
        if event.device_type.name == "CUDA":
            entry = totals.setdefault(event.name, [0.0, 0])
            entry[0] += event.device_time_total * 1e-3
            entry[1] += 1
    ordered = sorted(totals.items(), key=lambda item: -item[1][0])
    busy = sum(entry[0] for entry in totals.values()) / 1e3 / wall
    print(f"   profile {name}: {wall * 1e3:.1f} ms, device busy {busy:.0%}", flush=True)
    for kernel, (milliseconds, count) in ordered[:16]:
        each = milliseconds / count * 1e3
        print(f"      {milliseconds:9.2f} ms {count:6} x {each:8.2f} us  {kernel[:90]}", flush=True)
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        seen.export_chrome_trace(str(Path(folder) / f"{name.replace(' ', '-')}.json.gz"))
    waits = count_waits(seen)
    print(f"      the host waited: {waits or 'never'}, over {max(lasting, 1)} steps", flush=True)
    return {
        "wall_s": wall,
        "busy": busy,
        "steps": lasting,
        "waits": waits,
        "kernels": {k: v for k, v in ordered[:40]},
    }


def count_waits(seen: profile) -> dict[str, int]:
    """Calls that stop the host until the device is done, by name.

    The two synchronisations around the profile are its own. An event is what a finished step's
    tokens are waited for with, while the next step already runs.
    """
    found: dict[str, int] = {}
    for event in seen.events():
        if event.name in _WAITS and event.device_type.name == "CPU":
            found[event.name] = found.get(event.name, 0) + 1
    return found


def host_profile(session: Session, prompts: list[list[int]], outputs: list[int]) -> str:
    """The host's functions by their own time."""
    watch = cProfile.Profile()
    watch.enable()
    session.generate(prompts, outputs)
    watch.disable()
    text = io.StringIO()
    pstats.Stats(watch, stream=text).sort_stats("tottime").print_stats(28)
    lines = [line for line in text.getvalue().splitlines() if line.strip()]
    print("\n".join(f"      {line[:130]}" for line in lines[:34]), flush=True)
    return text.getvalue()
