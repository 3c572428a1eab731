"""A request crosses few rooms. Counted, not claimed."""

import sys
from types import FrameType

from inferplane.testing.null_engine import null_engine, null_plan, null_request


def _modules_of_one_decode_step() -> list[str]:
    """Modules of ours entered by one engine step, in the order of their first call."""
    engine, _ = null_engine(null_plan("null_sync", options={"check": "0"}))
    engine.add(null_request("warm", (1, 2, 3), max_tokens=10))
    engine.step()  # the prompt
    seen: list[str] = []

    def watch(frame: FrameType, event: str, argument: object) -> None:
        name = str(frame.f_globals.get("__name__", ""))
        if event == "call" and name.startswith("inferplane") and name not in seen:
            seen.append(name)

    sys.setprofile(watch)
    try:
        engine.step()
    finally:
        sys.setprofile(None)
    return seen


def _rooms(modules: list[str]) -> list[str]:
    """Packages in the order they are first entered; data and interfaces are not rooms."""
    rooms: list[str] = []
    for module in modules:
        room = module.split(".")[1]
        if room not in rooms:
            rooms.append(room)
    return rooms


def test_a_step_crosses_engine_scheduler_and_executor_and_no_other_room() -> None:
    data = ("inferplane.interfaces", "inferplane.request")
    inside_the_device = ("inferplane.sampling",)
    modules = [
        module
        for module in _modules_of_one_decode_step()
        if not module.startswith((*data, *inside_the_device))
    ]
    assert _rooms(modules) == ["engine", "scheduling", "testing"]


def test_a_step_visits_these_modules_of_the_engine_and_nothing_else_of_it() -> None:
    modules = [m for m in _modules_of_one_decode_step() if m.startswith("inferplane.engine")]
    assert modules == [
        "inferplane.engine.engine",
        "inferplane.engine.batch_builder",
        "inferplane.engine.lanes",
        "inferplane.engine.sampling_rows",
        "inferplane.engine.stats",
        "inferplane.engine.host_rows",
        "inferplane.engine.outputs",
    ]


def test_a_step_neither_looks_things_up_nor_logs() -> None:
    modules = _modules_of_one_decode_step()
    banned = {"registry", "plugins", "selection", "config", "planning", "planner", "catalogue"}
    assert not banned & {module.split(".")[1] for module in modules}


def test_the_step_is_short_enough_to_quote() -> None:
    import inspect

    from inferplane.engine.engine import Engine

    source = inspect.getsource(Engine.step)
    body = source.partition('"""')[2].partition('"""')[2]
    assert len(body.strip().splitlines()) <= 12
