"""`inferplane serve`: resolve settings and model, then hand over to the server."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from inferplane.api_keys import read_key_file
from inferplane.catalogue import may_fetch, resolve_model
from inferplane.cli.flags import Given, resolve_given, with_settings
from inferplane.cli.terminal import FetchDisplay
from inferplane.config import (
    ModelSettings,
    ServeSettings,
    current_environment,
    launch_settings,
)
from inferplane.device_choice import choose_device
from inferplane.settings import Resolved

__all__ = ["fetch_model", "fetch_to_run", "serve", "serve_settings"]


def fetch_model(settings: ModelSettings) -> Path:
    """Where the model's files are; shows a fetch while it lasts."""
    with FetchDisplay(settings.model) as display:
        return resolve_model(
            settings.model, offline=settings.offline, progress=display, cache=settings.cache
        )


def fetch_to_run(settings: ModelSettings) -> Path:
    """`fetch_model` for a model that shall run here: nothing is fetched for a device that cannot be
    used. Raises DeviceUnavailableError with the device's own reason.
    """
    if not settings.offline and may_fetch(settings.model, cache=settings.cache):
        from inferplane.planner import run_survey  # a model that is here need not pay for it

        seen = run_survey(settings.plugins, settings.without, settings.trace_plugins)
        choose_device(settings.device, seen.devices, seen.failed)
    return fetch_model(settings)


def serve_settings(resolved: Resolved, model: Path) -> ServeSettings:
    """Everything the server is told, from resolved settings and the fetched model."""
    what = ModelSettings(**resolved.of(ModelSettings))
    settings = ServeSettings(
        launch=launch_settings(what, model),
        model_source=what.model,
        chat_template=what.chat_template,
        generation_config=what.generation_config,
        **resolved.of(ServeSettings),
    )
    if settings.state is None and settings.uds is None and settings.port:
        settings = replace(settings, state=_own_state(settings.port))
    if settings.api_key_file is None:
        return settings
    return replace(settings, api_keys=settings.api_keys + read_key_file(settings.api_key_file))


def _own_state(port: int) -> Path | None:
    """This port's in the user's state folder; None, which is told, where nothing can be written.

    Port 0 has none: what a server on it stores ends with it.
    """
    base = current_environment().get("XDG_STATE_HOME")
    home = Path(base) if base else Path.home() / ".local" / "state"
    folder = home / "inferplane" / str(port)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        print(f"note: nothing is stored in {folder}: {error.strerror}", file=sys.stderr)
        return None
    return folder


@with_settings(ModelSettings, ServeSettings)
def serve(given: Given) -> int:
    """Serve a model over HTTP, as the OpenAI API has it.

    Without a model, a small one is fetched and served. Every flag is also an environment variable
    (--max-num-seqs is INFERPLANE_MAX_NUM_SEQS) and a key of the settings file.
    """
    resolved = resolve_given(given)
    model = fetch_to_run(ModelSettings(**resolved.of(ModelSettings)))
    settings = serve_settings(resolved, model)

    from inferplane.server.run import serve as run_server  # 300 ms that --help need not pay

    return run_server(settings)
