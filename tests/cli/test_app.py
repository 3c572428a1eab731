"""Laws of the command: fast questions load little, every error is one line and its own code."""

import subprocess
import sys

import pytest

from inferplane import __version__, errors
from inferplane.cli import app
from inferplane.cli.app import run

HEAVY = ("torch", "numpy", "transformers", "starlette", "uvicorn", "tokenizers", "openai", "httpx2")


def fresh(*arguments: str) -> tuple[int, str, set[str]]:
    """Exit code, standard output and loaded modules of the command in a new interpreter."""
    script = (
        "import sys; sys.argv = ['inferplane', *sys.argv[1:]]\n"
        "from inferplane.__main__ import main\n"
        "code = 0\n"
        "try: main()\n"
        "except SystemExit as end: code = end.code\n"
        "print('MODULES', *sys.modules)\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )
    shown, _, modules = done.stdout.rpartition("MODULES")
    return done.returncode, shown, set(modules.split())


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version_is_answered_with_the_standard_library_alone(flag: str) -> None:
    code, shown, modules = fresh(flag)
    assert (code, shown) == (0, f"inferplane {__version__}\n")
    ours = {name for name in modules if name.startswith("inferplane")}
    assert ours == {"inferplane", "inferplane.__main__"}
    assert not modules & {"cyclopts", "rich", *HEAVY}


@pytest.mark.parametrize(
    "arguments", [("--help",), ("serve", "--help"), ("chat", "--help"), ("bench", "--help")]
)
def test_help_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    code, shown, modules = fresh(*arguments)
    assert code == 0
    assert "Usage: inferplane" in shown
    assert not modules & (set(HEAVY) - {"numpy"})


def test_the_root_help_does_not_load_any_verb() -> None:
    _, _, modules = fresh("--help")
    loaded = {name for name in modules if name.startswith("inferplane.cli.")}
    assert loaded == {"inferplane.cli.app", "inferplane.cli.flags"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serv"], 'Did you mean "serve"?'),
        (["serve", "--prot", "1"], "Did you mean --port?"),
        (["serve", "--port"], "requires an argument"),
        (["serve", "--port", "eighty"], "port (from --port): 'eighty' is not a whole number"),
        (["serve", "no-such-model"], "no model 'no-such-model'"),
        (["chat", "smolm2-135m"], "did you mean smollm2-135m"),
        (["serve", "--config", "nowhere.toml"], "nowhere.toml: No such file"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert said in captured.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("x"), 2),
        (errors.ModelError("x"), 2),
        (errors.DeviceUnavailableError("x"), 3),
        (errors.CapacityError("x"), 4),
        (errors.DiskSpaceError("x"), 6),
        (errors.EngineError("engine_dead", "x"), 7),
        (errors.DeviceError("x"), 7),
    ],
)
def test_each_kind_of_error_has_its_exit_code(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        def __call__(self, tokens: list[str]) -> int:
            raise error

    monkeypatch.setattr(app, "build_app", Failing)
    assert run(["serve"]) == code


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def __call__(self, tokens: list[str]) -> int:
            raise KeyboardInterrupt

    monkeypatch.setattr(app, "build_app", Interrupted)
    assert run(["serve"]) == 130


def test_underscores_in_a_flag_are_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "show", "--max_model_len=2k", "--served_names", "a_b"]) == 0
    shown = capsys.readouterr().out
    assert "2048   (--max-model-len)" in shown
    assert '["a_b"]' in shown


def test_a_name_of_another_server_is_taken_with_a_note(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["config", "show", "--tensor-parallel-size", "2"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "note: --tensor-parallel-size: known here as --tensor-parallel\n"
    assert "2   (--tensor-parallel)" in captured.out


def test_config_show_hides_keys(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFERPLANE_API_KEY", "s3cret")
    assert run(["config", "show", "--json"]) == 0
    shown = capsys.readouterr().out
    assert '"value": "(hidden)"' in shown
    assert "s3cret" not in shown
