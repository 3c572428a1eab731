"""One declaration of a setting, and where its value comes from: flag, environment, file, default.

Knows no setting by name; `config.py` declares them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from inferplane.errors import ConfigError
from inferplane.setting_kinds import SECONDS, Kind

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "Resolved",
    "Setting",
    "nearest",
    "read_settings_file",
    "resolve",
    "setting",
    "settings_of",
]


@dataclass(frozen=True, slots=True)
class Setting:
    """What one field of a settings class says about itself.

    `max_model_len` is `--max-model-len`, `INFERPLANE_MAX_MODEL_LEN` and `max_model_len:`; seconds
    drop their `_s`.
    """

    name: str
    group: str
    kind: Kind
    default: object
    help: str
    aliases: Mapping[str, str]
    """Other spellings of the flag -> note printed when one is used ("" = no note)."""
    key: str
    """Name in a settings file."""
    secret: bool
    """Never a flag: argument lists are public on a machine."""

    @property
    def flag(self) -> str:
        """Name on the command line."""
        return "--" + self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        """Name in the environment."""
        return "INFERPLANE_" + self.key.upper()


def setting(
    default: object,
    kind: Kind,
    help: str,
    *,
    group: str,
    aliases: Mapping[str, str] | None = None,
    key: str = "",
    secret: bool = False,
) -> Any:
    """A dataclass field that is a setting."""
    declared = {
        "group": group,
        "kind": kind,
        "help": help,
        "aliases": aliases or {},
        "key": key,
        "secret": secret,
    }
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=declared)
    return field(default=default, metadata=declared)


def settings_of(*classes: type[DataclassInstance]) -> Iterator[Setting]:
    """The declared settings of these classes, in order; other fields are left out."""
    for owner in classes:
        for item in fields(owner):
            if item.metadata:
                factory = cast(Any, item.default_factory)
                default = factory() if callable(factory) else item.default
                declared = dict(item.metadata)
                short = item.name.removesuffix("_s") if declared["kind"] is SECONDS else item.name
                declared["key"] = declared["key"] or short
                yield Setting(name=item.name, default=default, **declared)


@dataclass(frozen=True, slots=True)
class Resolved:
    """Value and origin of each setting, by field name."""

    values: Mapping[str, object]
    sources: Mapping[str, str]
    """Such as "--port", "INFERPLANE_PORT", "serve.toml" or "default"."""

    def of(self, owner: type[DataclassInstance]) -> dict[str, Any]:
        """The arguments for `owner`'s declared settings."""
        return {s.name: self.values[s.name] for s in settings_of(owner) if s.name in self.values}


def resolve(
    settings: Sequence[Setting],
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    from_file: Mapping[str, object],
    file_name: str = "",
) -> Resolved:
    """Take each setting from flags (by field name), environment, file or default, in this order.

    Raises ConfigError naming the setting, its origin and what is accepted.
    """
    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    for one in settings:
        candidates = (
            (flags.get(one.name), one.flag),
            (environ.get(one.variable), one.variable),
            (from_file.get(one.name), file_name),
        )
        values[one.name], sources[one.name] = one.default, "default"
        for raw, source in candidates:
            if raw is not None:
                values[one.name] = _parsed(one, raw, source)
                sources[one.name] = source
                break
    return Resolved(values, sources)


def _parsed(one: Setting, raw: object, source: str) -> object:
    try:
        return one.kind.parse(raw)
    except ValueError:
        shown = "the value given" if one.secret else repr(raw)
        raise ConfigError(f"{one.key} (from {source}): {shown} is not {one.kind.accepts}") from None


def read_settings_file(path: Path, settings: Sequence[Setting]) -> dict[str, object]:
    """Field name -> raw value of a .toml, .yaml, .yml or .json file.

    Keys are flag names without the leading dashes; dashes and underscores are equal. Raises
    ConfigError for an unreadable file or an unknown key, with the nearest known one.
    """
    names = {_plain(alias): one for one in settings for alias in (one.key, *one.aliases)}
    found: dict[str, object] = {}
    for key, value in _table(path).items():
        one = names.get(_plain(key))
        if one is None:
            raise ConfigError(
                f"settings file {path}: unknown key {key!r}{nearest(_plain(key), names)}"
            )
        if one.name in found:
            raise ConfigError(f"settings file {path}: {one.key} is given twice")
        found[one.name] = value
    return found


def _table(path: Path) -> dict[str, object]:
    if path.suffix not in (".toml", ".yaml", ".yml", ".json"):
        raise ConfigError(f"settings file {path}: known endings are .toml, .yaml, .yml, .json")
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text) if path.suffix == ".toml" else _yaml(text)
    except OSError as error:
        raise ConfigError(f"settings file {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"settings file {path}: {error}") from None
    if not isinstance(table, dict):
        raise ConfigError(f"settings file {path}: holds no table of settings at the top")
    return {str(key): value for key, value in table.items()}


def _yaml(text: str) -> object:
    import yaml  # 15 ms that only users of such a file pay

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _plain(name: str) -> str:
    return name.lstrip("-").replace("-", "_")


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; did you mean X?" for the closest known name, or ""."""
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
