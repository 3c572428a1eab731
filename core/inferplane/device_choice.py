"""Which platform runs the model: the one asked for, or the best that answers. Never another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from inferplane.errors import ConfigError, DeviceUnavailableError
from inferplane.launch import DeviceReport

__all__ = ["choose_device"]


def choose_device(
    requested: str, reports: Sequence[DeviceReport], failed: Mapping[str, str]
) -> DeviceReport:
    """The platform to use; its probe is there and ok.

    `requested` is a name or "auto", `failed` maps plugins that did not load to the reason. Raises
    DeviceUnavailableError with the device's own reason, ConfigError when two share the top score.
    """
    if requested != "auto":
        return _named(requested, reports, failed)
    usable = [r for r in reports if r.probe is not None and r.probe.ok]
    if not usable:
        rows = [f"{r.name}: {_reason(r)}" for r in reports]
        rows += [f"{name}: plugin failed to load: {why}" for name, why in failed.items()]
        found = "; ".join(rows) or "no plugin with a device is installed"
        raise DeviceUnavailableError(f"no usable device ({found}): see inferplane doctor")
    best = max(_score(r) for r in usable)
    names = [r.name for r in usable if _score(r) == best]
    if len(names) > 1:
        raise ConfigError(
            f"devices {' and '.join(names)} are equally good (score {best}): "
            f"choose with --device {names[0]} or --device {names[1]}"
        )
    return next(r for r in usable if r.name == names[0])


def _named(
    requested: str, reports: Sequence[DeviceReport], failed: Mapping[str, str]
) -> DeviceReport:
    for report in reports:
        if report.name == requested:
            if report.probe is None or not report.probe.ok:
                hint = _usable_instead(reports)
                raise DeviceUnavailableError(f"device {requested}: {_reason(report)}; {hint}")
            return report
    if requested in failed:
        raise DeviceUnavailableError(
            f"device {requested}: its plugin failed to load: {failed[requested]}"
        )
    known = ", ".join(report.name for report in reports) or "none"
    broken = "".join(f"; plugin {name} failed: {why}" for name, why in failed.items())
    raise DeviceUnavailableError(f"no plugin offers device {requested!r} (known: {known}){broken}")


def _usable_instead(reports: Sequence[DeviceReport]) -> str:
    """The next step where the one that was asked for cannot be used."""
    usable = [report.name for report in reports if report.probe is not None and report.probe.ok]
    if not usable:
        return "no other device is usable here: see inferplane plugins"
    return f"usable here: {', '.join(f'--device {name}' for name in usable)}"


def _reason(report: DeviceReport) -> str:
    return report.error or (report.probe.reason if report.probe is not None else "no answer")


def _score(report: DeviceReport) -> int:
    return report.probe.score if report.probe is not None else 0
