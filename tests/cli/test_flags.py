"""Laws of flags: every declared setting is one, secrets are none, sources keep their order."""

from pathlib import Path

import pytest

from inferplane.cli.flags import Given, alias_notes, every_setting, resolve_given, with_settings
from inferplane.config import ModelSettings, ServeSettings
from inferplane.errors import ConfigError
from inferplane.settings import settings_of


@pytest.fixture
def seen() -> list[Given]:
    return []


def verb_of(seen: list[Given]):  # type: ignore[no-untyped-def]
    @with_settings(ModelSettings, ServeSettings)
    def verb(given: Given, *, once: str = "") -> int:
        seen.append(given)
        return 0

    return verb


def test_every_setting_but_secrets_is_a_parameter(seen: list[Given]) -> None:
    parameters = verb_of(seen).__signature__.parameters
    assert {s.name for s in every_setting() if not s.secret} <= set(parameters)
    assert not {s.name for s in every_setting() if s.secret} & set(parameters)
    assert {"once", "config"} <= set(parameters)


def test_the_model_may_stand_first(seen: list[Given]) -> None:
    verb_of(seen)("some-model", port="1")
    assert (seen[0].flags["model"], seen[0].flags["port"]) == ("some-model", "1")


def test_flags_that_were_not_given_are_none(seen: list[Given]) -> None:
    verb_of(seen)()
    assert set(seen[0].flags.values()) == {None}


def test_the_settings_file_may_be_named_by_flag_or_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.toml").write_text("port = 1")
    (tmp_path / "b.toml").write_text("port = 2")
    settings = tuple(settings_of(ServeSettings))
    monkeypatch.setenv("INFERPLANE_CONFIG", str(tmp_path / "a.toml"))
    by_variable = resolve_given(Given({}, settings))
    by_flag = resolve_given(Given({}, settings, tmp_path / "b.toml"))
    assert (by_variable.values["port"], by_flag.values["port"]) == (1, 2)
    assert by_flag.sources["port"] == "b.toml"


def test_a_file_may_hold_settings_of_other_verbs(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("port = 1\nmax_model_len = 99")
    given = Given({}, tuple(settings_of(ModelSettings)), tmp_path / "a.toml")
    assert resolve_given(given).values["max_model_len"] == 99


def test_an_unknown_variable_stops_every_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERPLANE_HOSTT", "x")
    with pytest.raises(ConfigError, match="INFERPLANE_HOST"):
        resolve_given(Given({}, ()))


def test_notes_are_for_foreign_names_only() -> None:
    assert alias_notes(["serve", "--max-model-len", "1", "--port=2"]) == []
    assert len(alias_notes(["--gpu-memory-utilization=0.5", "--served-model-name", "x"])) == 2
