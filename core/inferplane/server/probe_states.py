"""What the probes say, told from what is known already."""

from __future__ import annotations

import time
from collections.abc import Callable

from inferplane.server.context import ServerContext
from inferplane.server.lifecycle import phase_of

__all__ = ["PROBES", "probe_checks", "probe_facts"]

PROBES = ("/livez", "/startupz", "/readyz", "/health")
"""Paths that need no key and get a connection even when others do not."""


def probe_checks(context: ServerContext) -> dict[str, Callable[[], str]]:
    """For each path why it is not well; "" = it is."""
    return {
        "/livez": lambda: "",
        "/startupz": lambda: "" if context.has_started() else "starting",
        "/readyz": context.unready_because,
        "/health": context.unhealthy_because,
    }


def probe_facts(context: ServerContext, reason: str) -> dict[str, object]:
    """The body for everybody: phase and progress, without a word on the inside."""
    status = context.engine.status
    pct = round(100 * status.done / status.total) if status.total else None
    eta_s = context.eta_s()
    ready = context.lifecycle.ready_since if context.has_started() else None
    until = time.monotonic() if ready is None else ready
    return {
        "status": reason or "ok",
        "phase": "draining" if context.lifecycle.draining else phase_of(status.phase),
        "pct": 100 if ready is not None else pct,
        "elapsed_s": round(until - context.lifecycle.began, 1),
        "eta_s": None if eta_s is None or ready is not None else round(eta_s, 1),
    }
