"""From declared settings to flags of a verb, and from given flags to resolved settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from inferplane import setting_kinds as kinds
from inferplane.config import (
    SETTINGS_FILE,
    ModelSettings,
    ServeSettings,
    check_variables,
    current_environment,
)
from inferplane.settings import Resolved, Setting, read_settings_file, resolve, settings_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "Given",
    "alias_notes",
    "every_setting",
    "resolve_given",
    "shown_default",
    "with_settings",
]


@dataclass(frozen=True, slots=True)
class Given:
    """The settings flags of one call, raw; None = not given."""

    flags: Mapping[str, object]
    settings: tuple[Setting, ...]
    config: Path | None = None


def every_setting() -> tuple[Setting, ...]:
    """All settings of all verbs."""
    return tuple(settings_of(ModelSettings, ServeSettings))


def with_settings(
    *owners: type[DataclassInstance], model_first: bool = True
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a verb the flags of these settings classes; its first parameter receives a `Given`.

    With `model_first`, the model may be given as first argument without a flag.
    """
    settings = tuple(settings_of(*owners))

    def decorate(verb: Callable[..., int]) -> Callable[..., int]:
        own = list(inspect.signature(verb, eval_str=True).parameters.values())[1:]
        added = [_parameter(one, positional=model_first) for one in settings if not one.secret]
        ordered = sorted([*own, *added, _CONFIG], key=lambda parameter: parameter.kind)
        signature = inspect.Signature(ordered, return_annotation=int)

        def call(*args: object, **kwargs: object) -> int:
            bound = signature.bind(*args, **kwargs).arguments
            config = bound.pop("config", None)
            flags = {one.name: bound.pop(one.name, None) for one in settings}
            return verb(Given(flags, settings, config), **bound)

        call.__doc__ = verb.__doc__
        call.__name__ = verb.__name__
        call.__annotations__ = {p.name: p.annotation for p in ordered}
        call.__signature__ = signature  # type: ignore[attr-defined]
        return call

    return decorate


_GROUPS = {
    name: Group(name, sort_key=rank)
    for rank, name in enumerate(("Model", "Device", "Scheduling", "Server", "Files"), 1)
}

_CONFIG = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None,
        Parameter(
            help="Settings file (.toml, .yaml, .json); keys are flag names.", group=_GROUPS["Files"]
        ),
    ],
)


def _parameter(one: Setting, positional: bool) -> inspect.Parameter:
    kind: inspect._ParameterKind = inspect.Parameter.KEYWORD_ONLY
    if one.name == "model" and positional:
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    value: Any = str | None
    if one.kind is kinds.FLAG:
        value = bool | None
    elif one.kind in (kinds.NAMES, kinds.PAIRS):
        value = list[str] | None
    declared = Parameter(
        name=[one.flag, *one.aliases],
        help=f"{one.help}{shown_default(one)}",
        group=_GROUPS[one.group],
        metavar=one.kind.word,
        negative=None if one.kind is kinds.FLAG else (),
        show_choices=False,
    )
    return inspect.Parameter(one.name, kind, default=None, annotation=Annotated[value, declared])


def shown_default(one: Setting) -> str:
    """The default as a help text shows it, with a leading space; "" when there is none."""
    default = one.default
    if default in (None, "", (), {}):
        return ""
    if isinstance(default, bool):
        return f" (default: {'on' if default else 'off'})"
    unit = " s" if one.kind is kinds.SECONDS else ""
    return f" (default: {default:g}{unit})" if unit else f" (default: {default})"


def resolve_given(given: Given) -> Resolved:
    """Flags, then environment, then file, then defaults. Raises ConfigError."""
    environ = current_environment()
    check_variables(environ)
    named = environ.get(SETTINGS_FILE)
    file = given.config or (Path(named) if named else None)
    everything = every_setting()
    from_file = read_settings_file(file, everything) if file else {}
    return resolve(given.settings, given.flags, environ, from_file, file.name if file else "")


def alias_notes(arguments: Sequence[str]) -> list[str]:
    """What to tell a user who gave a flag by the name another server has for it."""
    notes = {alias: note for one in every_setting() for alias, note in one.aliases.items() if note}
    used = [argument.partition("=")[0] for argument in arguments]
    return [f"{flag}: {notes[flag]}" for flag in used if flag in notes]
