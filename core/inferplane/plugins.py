"""Find the installed plugins, load each in isolation, remember what failed and why."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata

import pluggy

from inferplane import hookspecs
from inferplane.errors import RegistrationError
from inferplane.interfaces import INTERFACE_VERSION
from inferplane.registry import KINDS, Catalogue, Entry

__all__ = ["BUILTIN", "LoadedPlugin", "PluginSource", "Plugins", "find_plugins"]

BUILTIN = (
    "inferplane.models.plugin",
    "inferplane.quantization.plugin",
    "inferplane.server.plugin",
)
"""What the core itself offers comes through the same doors."""


@dataclass(frozen=True, slots=True)
class PluginSource:
    """Where a plugin comes from: its name, entry module and distribution."""

    name: str
    module: str
    distribution: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class LoadedPlugin:
    """What became of one source; `error` is "" when it loaded."""

    source: PluginSource
    interface: tuple[int, int] | None
    error: str = ""
    trace: str = ""


def find_plugins(allowed: Sequence[str] | None, denied: Sequence[str] = ()) -> list[PluginSource]:
    """Sources to load: every entry point of group `inferplane`, or exactly those `allowed`.

    An allowed name that is no entry point is taken as a module name, so that a plugin works on a
    machine where nothing can be installed; `no:NAME` leaves that one out. Nothing is imported here.
    """
    left_out = {*denied, *(name[3:] for name in allowed or () if name.startswith("no:"))}
    wanted = [name for name in allowed or () if not name.startswith("no:")]
    points = {
        point.name: PluginSource(
            point.name,
            point.value,
            point.dist.name if point.dist else "",
            point.dist.version if point.dist else "",
        )
        for point in metadata.entry_points(group="inferplane")
    }
    if allowed is None or (allowed and not wanted):
        chosen = list(points.values())
    else:
        chosen = [
            points.get(name) or PluginSource(name.split(".")[0].removeprefix("inferplane_"), name)
            for name in wanted
        ]
    return sorted((s for s in chosen if s.name not in left_out), key=lambda s: s.name)


class Plugins:
    """What the given sources offer. One broken plugin never stops another."""

    def __init__(
        self,
        sources: Sequence[PluginSource] = (),
        note: Callable[[str], None] = lambda name: None,
        trace: Callable[[str], None] = lambda call: None,
    ) -> None:
        """`note` hears each plugin's name before it is imported, `trace` what each hook did."""
        self._trace = trace
        self.loaded: list[LoadedPlugin] = []
        self._manager = pluggy.PluginManager("inferplane")
        self._manager.add_hookspecs(hookspecs)
        lines: list[tuple[str, Entry]] = []
        for module in BUILTIN:
            lines += self._lines("inferplane", self._register(module, "inferplane:" + module))
        self.catalogue = Catalogue(lines)
        for source in sources:
            note(source.name)
            self.loaded.append(self._load(source))

    @property
    def failed(self) -> Mapping[str, LoadedPlugin]:
        """Name -> record of each plugin that did not load."""
        return {p.source.name: p for p in self.loaded if p.error}

    def _load(self, source: PluginSource) -> LoadedPlugin:
        version: tuple[int, int] | None = None
        try:
            version = _interface_version(import_module(source.module))
            plugin = self._register(source.module, source.name)
            self._manager.check_pending()  # a misspelt hook is an error, not silence
            lines = self._lines(source.name, plugin)
            # all of a plugin's lines or none: validated on a copy first
            Catalogue(self.catalogue.lines() + lines)
        except BaseException as error:  # a plugin may even call sys.exit
            if self._manager.has_plugin(source.name):
                self._manager.unregister(name=source.name)
            reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            return LoadedPlugin(source, version, reason, traceback.format_exc())
        for kind, entry in lines:
            self.catalogue[kind].add(entry)
        return LoadedPlugin(source, version)

    def _register(self, module: str, name: str) -> object:
        plugin = import_module(module)
        self._manager.register(plugin, name=name)
        return plugin

    def _lines(self, owner: str, plugin: object) -> list[tuple[str, Entry]]:
        lines: list[tuple[str, Entry]] = []
        for kind in KINDS:
            for impl in getattr(self._manager.hook, f"register_{kind}").get_hookimpls():
                if impl.plugin is plugin:
                    before, began = len(lines), time.perf_counter()
                    impl.function(register=_collector(kind, owner, lines))
                    ms = (time.perf_counter() - began) * 1000
                    count = len(lines) - before
                    self._trace(f"{owner}: register_{kind} -> {count} lines, {ms:.2f} ms")
        return lines


def _collector(kind: str, owner: str, lines: list[tuple[str, Entry]]) -> Callable[..., None]:
    def register(name: str, target: str, *, on: tuple[str, ...] = (), priority: int = 0) -> None:
        lines.append((kind, Entry(name, target, owner, tuple(on), priority)))

    return register


def _interface_version(module: object) -> tuple[int, int]:
    stated = getattr(module, "INTERFACE_VERSION", None)
    match stated:
        case (int(major), int(minor)):
            pass
        case _:
            raise RegistrationError(
                "states no INTERFACE_VERSION = (major, minor), the interface it was written for"
            )
    ours = INTERFACE_VERSION
    if major != ours[0] or minor > ours[1]:
        raise RegistrationError(
            f"written for interface {major}.{minor}, this core offers {ours[0]}.{ours[1]}: "
            + ("upgrade inferplane" if (major, minor) > ours else "upgrade the plugin")
        )
    return major, minor
