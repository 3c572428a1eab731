"""The kit's door into pytest: options, fixtures, report. Loaded by every run, so it is light.

Knows nothing of devices; what the options mean is decided in `inferplane.testing.conformance`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from inferplane.testing.conformance.report import Outcome
    from inferplane.testing.conformance.state import KitState

__all__ = [
    "inferplane_device",
    "inferplane_kit",
    "inferplane_options",
    "inferplane_quick",
    "tiny_model",
]

pytest.register_assert_rewrite("inferplane.testing.conformance")

_OUTCOMES = pytest.StashKey[list["Outcome"]]()
_STATE = pytest.StashKey["KitState"]()
_WHOLE_KIT = "inferplane.testing.conformance"
_RESTS_ON = ("hardware", "cpu-mode", "emulation", "compiled")
"""What a run may rest on, in the order of the report's `EVIDENCE`."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the kit's options."""
    group = parser.getgroup("inferplane", "conformance of a device plugin")
    group.addoption(
        "--inferplane-device",
        metavar="NAME",
        default=None,
        help="the device whose plugin is checked; without other arguments it runs the whole kit",
    )
    group.addoption(
        "--inferplane-plugins",
        metavar="A,B",
        default=None,
        help="load exactly these plugins (entry points or modules); default: all installed",
    )
    group.addoption(
        "--inferplane-option",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a setting of the device's own; may be repeated",
    )
    group.addoption(
        "--inferplane-model",
        metavar="PATH",
        default=None,
        help="a real model, to be compared with the core's own arithmetic in float32",
    )
    group.addoption(
        "--inferplane-level",
        metavar="N",
        type=int,
        default=None,
        help="run the kit's levels 0 to N only",
    )
    group.addoption(
        "--inferplane-report",
        metavar="PATH",
        default=None,
        help="write the kit's verdict as JSON",
    )
    group.addoption(
        "--inferplane-evidence",
        choices=_RESTS_ON,
        default="hardware",
        help="what the run rests on, for the report: the device, or a stand-in",
    )
    group.addoption(
        "--inferplane-quick",
        action="store_true",
        help="a twentieth of the random samples; such a report says so",
    )


def pytest_configure(config: pytest.Config) -> None:
    """With a device and nothing else to run, run the kit that came with the core."""
    invoked = config.args_source is not pytest.Config.ArgsSource.ARGS
    if config.getoption("--inferplane-device") and invoked:
        config.args[:] = [_WHOLE_KIT]
        config.option.pyargs = True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out levels that were not asked for, and run the others from the lowest up."""
    kit = {item: _level(item) for item in items}
    most = config.getoption("--inferplane-level")
    if most is not None:
        dropped = [item for item, level in kit.items() if level is not None and level > most]
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]
    if config.getoption("--inferplane-device"):
        items.sort(key=lambda item: kit[item] or 0)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_model("llama", dtype="float32", …)` -> folder of that model, written once a session."""
    from inferplane.testing.tiny import write_tiny_model  # numpy and a tokenizer: only on use

    written: dict[str, Path] = {}

    def write(kind: str = "llama", **settings: object) -> Path:
        key = repr((kind, sorted(settings.items())))
        if key not in written:
            folder = tmp_path_factory.mktemp(kind)
            written[key] = write_tiny_model(folder, kind, **settings)  # type: ignore[arg-type]
        return written[key]

    return write


@pytest.fixture(scope="module")
def inferplane_device(request: pytest.FixtureRequest) -> str:
    """The device under test; a plugin's test file overrides it with its own name."""
    name = request.config.getoption("--inferplane-device")
    if not name:
        pytest.skip("no device named: --inferplane-device NAME")
    return str(name)


@pytest.fixture(scope="module")
def inferplane_options() -> dict[str, str]:
    """Values for the device's own settings; a plugin's test file may override them."""
    return {}


@pytest.fixture(scope="module")
def inferplane_quick() -> bool:
    """Whether a twentieth of the random samples will do; a plugin's test file may say so."""
    return False


@pytest.fixture(scope="session")
def inferplane_kit(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KitState]:
    """What the kit keeps for this session."""
    from inferplane.testing.conformance.state import KitState  # may load torch: only on use

    named = pytestconfig.getoption("--inferplane-plugins")
    state = KitState(
        tmp_path_factory.mktemp("inferplane"),
        named.split(",") if named else None,
        bool(pytestconfig.getoption("--inferplane-quick")),
        dict(pair.split("=", 1) for pair in pytestconfig.getoption("--inferplane-option")),
    )
    pytestconfig.stash[_STATE] = state
    yield state
    state.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note what became of each of the kit's tests."""
    report = yield
    level = _level(item)
    if level is not None and (report.when == "call" or not report.passed):
        _note(item, level, report)
    return report


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the verdict on the device that was named, and write it where asked."""
    name, state = config.getoption("--inferplane-device"), config.stash.get(_STATE, None)
    if not name or state is None:
        return
    from inferplane.testing.conformance.report import EVIDENCE, Report  # only when a kit ran

    rests_on = _RESTS_ON.index(config.getoption("--inferplane-evidence"))
    outcomes = config.stash.get(_OUTCOMES, [])
    report = Report(state.subject(name), outcomes, EVIDENCE[rests_on])
    terminalreporter.section("inferplane conformance")
    for line in report.lines():
        terminalreporter.write_line(line)
    if path := config.getoption("--inferplane-report"):
        report.write(Path(path))
        terminalreporter.write_line(f"report: {path}")


def _level(item: pytest.Item) -> int | None:
    """The level of one of the kit's tests; None for every other test."""
    if isinstance(item, pytest.Function) and item.cls is not None:
        home = any(cls.__module__.startswith(_WHOLE_KIT) for cls in item.cls.__mro__)
        return getattr(item.cls, "level", None) if home else None
    return None


def _note(item: pytest.Item, level: int, report: pytest.TestReport) -> None:
    from inferplane.testing.conformance.report import Outcome  # only when a kit runs

    outcome, reason = str(report.outcome), ""
    if hasattr(report, "wasxfail"):
        outcome, reason = ("expected" if report.skipped else "failed"), str(report.wasxfail)
    elif report.skipped and isinstance(report.longrepr, tuple):
        reason = str(report.longrepr[2]).removeprefix("Skipped: ")
    elif report.failed:
        reason = str(report.longrepr).strip().splitlines()[-1] if report.longrepr else ""
    test = "::".join(item.nodeid.split("::")[1:])
    outcomes = item.config.stash.setdefault(_OUTCOMES, [])
    outcomes.append(Outcome(test, level, outcome, round(report.duration, 3), reason))
