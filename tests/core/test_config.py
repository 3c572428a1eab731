"""Laws of settings: one declaration, four sources in order, nothing unknown accepted."""

import dataclasses
from hashlib import sha256
from pathlib import Path

import pytest

from inferplane.api_keys import read_key_file
from inferplane.config import (
    ModelSettings,
    ServeSettings,
    cache_folder,
    check_variables,
    launch_settings,
)
from inferplane.errors import ConfigError
from inferplane.interfaces import EngineConfig
from inferplane.launch import SchedulerConfig
from inferplane.settings import read_settings_file, resolve, settings_of

SETTINGS = list(settings_of(ModelSettings, ServeSettings))


def value_of(name: str, **sources: object) -> object:
    flags = sources.get("flags", {})
    environ = sources.get("environ", {})
    file = sources.get("file", {})
    return resolve(SETTINGS, flags, environ, file, "serve.toml").values[name]  # type: ignore[arg-type]


def test_the_command_line_beats_environment_file_and_default() -> None:
    flags, environ, file = {"port": "1"}, {"INFERPLANE_PORT": "2"}, {"port": 3}
    assert value_of("port", flags=flags, environ=environ, file=file) == 1
    assert value_of("port", environ=environ, file=file) == 2
    assert value_of("port", file=file) == 3
    assert value_of("port") == 8000


def test_the_source_of_each_value_is_told() -> None:
    resolved = resolve(
        SETTINGS, {"port": "1"}, {"INFERPLANE_HOST": "h"}, {"strict": True}, "serve.toml"
    )
    told = {name: resolved.sources[name] for name in ("port", "host", "strict", "device")}
    assert told == {
        "port": "--port",
        "host": "INFERPLANE_HOST",
        "strict": "serve.toml",
        "device": "default",
    }


def test_a_false_flag_overrides_a_true_variable() -> None:
    assert (
        value_of(
            "prefix_cache", flags={"prefix_cache": False}, environ={"INFERPLANE_PREFIX_CACHE": "1"}
        )
        is False
    )


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("max_model_len", "16k", 16384),
        ("max_model_len", "1M", 2**20),
        ("queue_timeout_s", "500ms", 0.5),
        ("queue_timeout_s", "2m", 120.0),
        ("queue_timeout_s", "0", 0.0),
        ("strict", "on", True),
        ("strict", "False", False),
        ("plugins", "acme, other", ("acme", "other")),
        ("plugins", "", ()),
        ("options", "tiles=4,mode=fast", {"tiles": "4", "mode": "fast"}),
        ("memory_fraction", "0.5", 0.5),
        ("uds", "/run/x.sock", Path("/run/x.sock")),
        ("dummy_seed", "-3", -3),
    ],
)
def test_text_is_read_by_kind(name: str, text: str, expected: object) -> None:
    variable = next(s.variable for s in SETTINGS if s.name == name)
    assert value_of(name, environ={variable: text}) == expected


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("port", "70000"),
        ("port", "eighty"),
        ("port", True),
        ("max_batched_tokens", "0"),
        ("max_model_len", "4.5"),
        ("max_model_len", "16q"),
        ("memory_fraction", "1.5"),
        ("memory_fraction", "nan"),
        ("queue_timeout_s", "soon"),
        ("queue_timeout_s", "-1"),
        ("queue_timeout_s", "1.2.3"),
        ("policy", "random"),
        ("strict", "maybe"),
        ("options", "tiles"),
        ("host", ["a"]),
    ],
)
def test_a_wrong_value_names_setting_source_value_and_what_is_accepted(
    name: str, raw: object
) -> None:
    with pytest.raises(ConfigError) as caught:
        value_of(name, file={name: raw})
    message = str(caught.value)
    setting = next(s for s in SETTINGS if s.name == name)
    assert all(part in message for part in (setting.key, "serve.toml", setting.kind.accepts))


def test_a_wrong_secret_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        value_of("api_keys", file={"api_keys": 123456})
    assert "123456" not in str(caught.value)


def test_a_key_is_kept_as_its_digest_only() -> None:
    keys = value_of("api_keys", environ={"INFERPLANE_API_KEY": "s3cret"})
    assert keys[0].digest == sha256(b"s3cret").digest()  # type: ignore[index]
    assert "s3cret" not in repr(keys)


def test_an_unknown_variable_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean INFERPLANE_PORT"):
        check_variables({"INFERPLANE_PORTT": "1"})


def test_all_known_variables_pass() -> None:
    check_variables({s.variable: "" for s in SETTINGS} | {"INFERPLANE_CONFIG": "x", "HOME": "/"})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.toml", 'port = 9000\nmax-model-len = "8k"\n'),
        ("s.yaml", "port: 9000\nmax_model_len: 8k\n"),
        ("s.json", '{"port": 9000, "max_model_len": "8k"}'),
    ],
)
def test_a_file_may_be_toml_yaml_or_json(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert read_settings_file(path, SETTINGS) == {"port": 9000, "max_model_len": "8k"}


def test_a_file_may_use_the_names_other_servers_use(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("tensor-parallel-size: 2\n")
    assert read_settings_file(path, SETTINGS) == {"tensor_parallel": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot: 1", "unknown key 'prot'; did you mean port"),
        ("port: 1\nport-: 2", "unknown key"),
        ("max-model-len: 1\nmax_model_len: 2", "max_model_len is given twice"),
        ("- port", "no table of settings"),
        ("port: [", "s.yaml"),
    ],
)
def test_a_bad_file_is_refused_with_its_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_settings_file(path, SETTINGS)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_settings_file(tmp_path / "s.toml", SETTINGS)


def test_flags_variables_and_keys_are_unique() -> None:
    flags = [flag for s in SETTINGS for flag in (s.flag, *s.aliases)]
    assert len(set(flags)) == len(flags)
    assert len({s.variable for s in SETTINGS}) == len(SETTINGS)


def test_every_default_passes_its_own_kind() -> None:
    for setting in SETTINGS:
        if setting.default not in (None, ()):
            assert setting.kind.parse(setting.default) == setting.default, setting.name


@pytest.mark.parametrize("owner", [EngineConfig, SchedulerConfig])
def test_defaults_agree_with_what_plugins_and_scheduler_declare(owner: type) -> None:
    launch = launch_settings(ModelSettings(), Path("m"))
    ours = launch.config if owner is EngineConfig else launch.scheduler
    declared = EngineConfig(model="m") if owner is EngineConfig else SchedulerConfig()
    assert dataclasses.asdict(ours) == dataclasses.asdict(declared)  # type: ignore[call-overload]


def test_every_field_plugins_and_scheduler_read_can_be_set() -> None:
    ours = {s.name for s in SETTINGS}
    needed = {
        f.name for owner in (EngineConfig, SchedulerConfig) for f in dataclasses.fields(owner)
    }
    assert needed <= ours


def test_settings_reach_the_launch_settings() -> None:
    settings = ModelSettings(max_model_len=77, policy="priority", plugins=("acme",), dummy_seed=5)
    launch = launch_settings(settings, Path("folder"))
    reached = (launch.config.model, launch.config.max_model_len, launch.scheduler.policy)
    assert reached == ("folder", 77, "priority")
    assert (launch.plugins, launch.seed) == (("acme",), 5)


def test_a_key_file_gives_names_digests_and_scopes(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    digest = sha256(b"k").hexdigest()
    path.write_text(f"# people\nada {digest} infer,admin\nbob {digest}\n\n")
    ada, bob = read_key_file(path)
    assert (ada.name, ada.digest, ada.scopes) == ("ada", bytes.fromhex(digest), ("infer", "admin"))
    assert bob.scopes == ("infer", "metrics")


@pytest.mark.parametrize("line", ["ada", "ada zz", "ada abcd infer", "ada {d} infer admin"])
def test_a_bad_line_of_a_key_file_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "keys"
    path.write_text("\n" + line.format(d="0" * 64) + "\n")
    with pytest.raises(ConfigError, match="line 2"):
        read_key_file(path)


def test_the_cache_folder_follows_its_variable_then_xdg_then_home() -> None:
    assert cache_folder({"INFERPLANE_CACHE": "/c", "XDG_CACHE_HOME": "/x"}) == Path("/c")
    assert cache_folder({"XDG_CACHE_HOME": "/x"}) == Path("/x/inferplane")
    assert cache_folder({}) == Path.home() / ".cache" / "inferplane"
