"""Ends requests whose handle in the front end is gone, whatever message was lost on the way."""

from __future__ import annotations

from collections.abc import Collection

from inferplane.engine.engine import Engine

__all__ = ["reap"]


def reap(engine: Engine, alive: Collection[str]) -> tuple[str, ...]:
    """Abort every request not in `alive`; the ids that were.

    Messages are in order, so a request the engine knows was known to whoever made the list.
    """
    held = set(alive)
    orphans = tuple(
        request_id for request_id in engine.scheduler.sequences if request_id not in held
    )
    engine.abort(orphans)
    return orphans
