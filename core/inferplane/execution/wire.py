"""What engine and worker say to each other: typed messages, arrays as raw bytes, never pickle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import msgspec

from inferplane.array_messages import decoder, encoder
from inferplane.interfaces import (
    Choice,
    ExecutorStats,
    KVPlan,
    StepBatch,
    StepResult,
    Tag,
)
from inferplane.launch import LaunchPlan

__all__ = [
    "Begin",
    "Broke",
    "Close",
    "Collect",
    "Done",
    "Execute",
    "FromWorker",
    "Load",
    "PlanKV",
    "Planned",
    "Progressed",
    "Report",
    "Reported",
    "Result",
    "Sleep",
    "Start",
    "ToWorker",
    "Wake",
    "decoder",
    "encode",
]


class Begin(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The first message: what this worker is."""

    plan: LaunchPlan
    rank: int
    rendezvous: str


class Load(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """`Executor.load`; answered by Progressed and then Done."""


class PlanKV(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """`Executor.plan_kv`; answered by Planned."""


class Start(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """`Executor.start`; answered by Progressed and then Done."""

    plan: KVPlan


class Execute(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """`Executor.execute`; not answered, so that the next may follow at once."""

    batch: StepBatch


class Collect(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Wait for the oldest step enqueued; answered by Result."""


class Report(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """`Executor.choices` and `stats`; answered by Reported."""


class Sleep(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """`Executor.sleep`; answered by Done."""

    tags: tuple[Tag, ...]
    keep_copy: bool


class Wake(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """`Executor.wake`; answered by Done."""

    tags: tuple[Tag, ...]


class Close(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """`Executor.close`, then leave."""


class Progressed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """`Progress` was called."""

    phase: Literal["load", "profile", "warm_up"]
    done: int
    total: int
    detail: str


class Done(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """What was asked is done."""


class Planned(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Answer to PlanKV."""

    plan: KVPlan


class Result(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Answer to Collect; ranks other than 0 send no arrays."""

    result: StepResult | None


class Reported(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Answer to Report."""

    choices: tuple[Choice, ...]
    stats: ExecutorStats


class Broke(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """What was asked failed; `kind` is the class of `inferplane.errors`, "" for any other."""

    kind: str
    message: str


ToWorker: TypeAlias = (
    Begin | Load | PlanKV | Start | Execute | Collect | Report | Sleep | Wake | Close
)
FromWorker: TypeAlias = Progressed | Done | Planned | Result | Reported | Broke

encode: Callable[[ToWorker | FromWorker], bytes] = encoder()
