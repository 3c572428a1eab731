"""Decides what runs where: plugins, probe, capabilities, settings, topology; asks no device.

Strangers' code runs here, so `planner.py` calls it in a child process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from inferplane.checkpoint import open_checkpoint
from inferplane.config import current_environment
from inferplane.device_choice import choose_device
from inferplane.errors import ConfigError, DeviceUnavailableError, InferplaneError
from inferplane.interfaces import Capabilities, ModelShape, Platform, Probe, Topology
from inferplane.launch import DeviceReport, LaunchPlan, LaunchSettings
from inferplane.model_config import read_model_config
from inferplane.model_tasks import TaskChoice, choose_tasks
from inferplane.models.pictures import image_token_id, takes_pictures
from inferplane.plugins import LoadedPlugin, Plugins, find_plugins
from inferplane.registry import Entry
from inferplane.settle import apply_changes, check_settings, core_changes
from inferplane.speech_config import SpeechConfig, read_speech_config

__all__ = ["PluginReport", "Survey", "make_plan", "survey"]

Note = Callable[[str], None]
"""Told the stage that begins, so that a stage that never ends has a name."""
_MOST_TRACED = 400
"""Characters of one answer."""


@dataclass(frozen=True, slots=True)
class PluginReport:
    """What became of one plugin; `error` is "" when it loaded."""

    name: str
    module: str
    distribution: str = ""
    version: str = ""
    interface: tuple[int, int] | None = None
    error: str = ""
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Survey:
    """Every plugin and platform there is, without a model."""

    plugins: tuple[PluginReport, ...]
    devices: tuple[DeviceReport, ...]
    capabilities: Mapping[str, Capabilities] = field(default_factory=dict)
    """Of usable devices, asked without a model."""
    lines: tuple[tuple[str, Entry], ...] = ()
    """Register lines of every loaded plugin."""

    @property
    def failed(self) -> dict[str, str]:
        """Plugin -> why it did not load."""
        return {plugin.name: plugin.error for plugin in self.plugins if plugin.error}


def survey(
    plugins: Iterable[str] | None,
    without: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
    note: Note = lambda stage: None,
    lost: Mapping[str, str] | None = None,
    trace: Note = lambda call: None,
) -> Survey:
    """Load plugins, probe every platform, ask the usable ones what they can do.

    Plugins in `lost` are not loaded; they failed for the reason given there. `trace` hears what
    each hook and each method of a platform answered.
    """
    seen, platforms = _look(plugins, without, environment, note, lost or {}, trace)
    devices, capabilities = [], {}
    for device in seen.devices:
        platform, probe = platforms.get(device.name), device.probe
        if platform is not None and probe is not None and probe.ok:
            note(f"capabilities of device {device.name}")
            try:
                with _traced(trace, device.name, "capabilities") as told:
                    capabilities[device.name] = platform.capabilities(probe, None)
                    told.append(capabilities[device.name])
            except BaseException as error:  # a plugin may even call sys.exit
                device = replace(device, error=_told(error))
        devices.append(device)
    return replace(seen, devices=tuple(devices), capabilities=capabilities)


def make_plan(
    settings: LaunchSettings,
    environment: Mapping[str, str] | None = None,
    note: Note = lambda stage: None,
    lost: Mapping[str, str] | None = None,
    trace: Note = lambda call: None,
) -> LaunchPlan:
    """Decide everything before a device is touched; `lost` and `trace` as in `survey`.

    Raises DeviceUnavailableError, ModelError and other ConfigErrors; a plugin's own exception
    becomes a ConfigError with its name.
    """
    chosen_by = settings.plugins, settings.without
    seen, platforms = _look(*chosen_by, environment, note, lost or {}, trace)
    chosen = choose_device(settings.config.device, seen.devices, seen.failed)
    probe, platform = chosen.probe, platforms[chosen.name]
    assert probe is not None
    read = _read_model(settings, note)
    note(f"plan for device {chosen.name}")
    with _answers_of(chosen, "capabilities", trace) as told:
        caps = platform.capabilities(probe, read.shape)
        told.append(caps)
        check_settings(chosen.name, settings.config, caps)
    changes = core_changes(settings, caps, read.shape, generates=read.tasks.generates)
    config = apply_changes(settings.config, changes, "the core")
    with _answers_of(chosen, "resolve", trace) as told:
        resolved = platform.resolve(config, caps, read.shape)
        told.append(resolved)
        config = apply_changes(config, resolved, f"plugin {chosen.plugin}")
    with _answers_of(chosen, "topology", trace) as told:
        topology = _checked(platform.topology(config, caps), probe, chosen)
        told.append(topology)
    with _answers_of(chosen, "worker_env", trace) as told:
        worker_env = tuple(dict(platform.worker_env(config, n)) for n in range(topology.processes))
        told.append(worker_env)
    return LaunchPlan(
        device=chosen.name,
        plugin=chosen.plugin,
        plugin_version=_version(seen, chosen),
        probe=probe,
        config=replace(config, device=chosen.name),
        scheduler=settings.scheduler,
        caps=caps,
        model=read.shape,
        topology=topology,
        worker_env=worker_env,
        changes=(*changes, *resolved),
        devices=seen.devices,
        lines=seen.lines,
        failed=seen.failed,
        model_impl=settings.model_impl,
        load_format=settings.load_format,
        seed=settings.seed,
        weight_bytes=0 if settings.load_format == "dummy" else read.weight_bytes,
        fit_context=settings.config.max_model_len == 0,
        tasks=read.tasks.tasks,
        keeps_kv=read.tasks.keeps_kv,
        image_token=read.image_token,
        speech=read.speech,
    )


def _version(seen: Survey, chosen: DeviceReport) -> str:
    """Of the plugin that offers the chosen device."""
    return next(plugin.version for plugin in seen.plugins if plugin.name == chosen.plugin)


@dataclass(frozen=True, slots=True)
class _ReadModel:
    """What a model's files say."""

    shape: ModelShape
    tasks: TaskChoice
    weight_bytes: int
    image_token: int | None
    speech: SpeechConfig | None


def _read_model(settings: LaunchSettings, note: Note) -> _ReadModel:
    note("read the model")
    checkpoint = open_checkpoint(Path(settings.config.model))
    weight_bytes = sum(tensor.num_bytes for tensor in checkpoint.tensors.values())
    config = read_model_config(checkpoint, quantization=settings.config.quantization)
    tasks = choose_tasks(settings.task, config, checkpoint)
    model = config.shape()
    if tasks.max_tokens is not None:
        model = replace(model, max_position=min(model.max_position, tasks.max_tokens))
    image_token = image_token_id(config) if takes_pictures(config) else None
    speech = read_speech_config(config.whole)
    if speech is not None:
        image_token = speech.placeholder
    return _ReadModel(model, tasks, weight_bytes, image_token, speech)


def _look(
    plugins: Iterable[str] | None,
    without: Iterable[str],
    environment: Mapping[str, str] | None,
    note: Note,
    lost: Mapping[str, str],
    trace: Note,
) -> tuple[Survey, dict[str, Platform]]:
    environment = current_environment() if environment is None else environment
    sources = find_plugins(None if plugins is None else tuple(plugins), tuple(without))
    rows = [_row(LoadedPlugin(s, None, lost[s.name])) for s in sources if s.name in lost]
    sources = [source for source in sources if source.name not in lost]
    loaded = Plugins(sources, note=lambda name: note(f"load plugin {name}"), trace=trace)
    devices: list[DeviceReport] = []
    platforms: dict[str, Platform] = {}
    for entry in loaded.catalogue["platforms"]:
        note(f"probe device {entry.name}")
        try:
            with _traced(trace, entry.name, "probe") as told:
                platform = entry.load()()
                probe = platform.probe(environment)
                told.append(probe)
            if not isinstance(probe, Probe):
                raise TypeError(f"probe answered {probe!r}, not a Probe")
        except BaseException as error:  # a plugin may even call sys.exit
            devices.append(DeviceReport(entry.name, entry.owner, None, _told(error)))
            continue
        devices.append(DeviceReport(entry.name, entry.owner, probe))
        platforms[entry.name] = platform
    reports = sorted((*rows, *map(_row, loaded.loaded)), key=lambda row: row.name)
    lines = tuple(loaded.catalogue.lines())
    return Survey(tuple(reports), tuple(devices), lines=lines), platforms


def _row(plugin: LoadedPlugin) -> PluginReport:
    source = plugin.source
    return PluginReport(
        source.name,
        source.module,
        source.distribution,
        source.version,
        plugin.interface,
        plugin.error,
        plugin.trace,
    )


@contextmanager
def _answers_of(device: DeviceReport, method: str, trace: Note) -> Iterator[list[object]]:
    """Give a plugin's own exceptions its name; deliberate errors pass."""
    try:
        with _traced(trace, device.name, method) as told:
            yield told
    except InferplaneError:
        raise
    except BaseException as error:
        raise ConfigError(
            f"plugin {device.plugin}: {method} of device {device.name} failed: {_told(error)}"
        ) from error


@contextmanager
def _traced(trace: Note, device: str, method: str) -> Iterator[list[object]]:
    """Tell of one call: what it answered, appended to the list, or raised, and its time."""
    told: list[object] = []
    began = time.perf_counter()
    try:
        yield told
    except BaseException as error:
        told.append(_told(error))
        raise
    finally:
        answer = repr(told[-1])[:_MOST_TRACED] if told else "nothing"
        trace(f"{device}: {method} -> {answer}, {(time.perf_counter() - began) * 1000:.2f} ms")


def _checked(topology: Topology, probe: Probe, device: DeviceReport) -> Topology:
    if topology.placement == "inline" and topology.processes != 1:
        raise ConfigError(f"plugin {device.plugin}: inline placement runs one process, not more")
    needed = topology.processes * topology.devices_per_process
    if probe.device_count and needed > probe.device_count:
        raise DeviceUnavailableError(
            f"device {device.name}: {needed} needed, {probe.device_count} found: "
            f"--tensor-parallel {probe.device_count} is the most"
        )
    return topology


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]
