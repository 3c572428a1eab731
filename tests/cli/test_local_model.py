"""Laws of a model run by the command itself: real processes, the null device, a tiny tokenizer."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from inferplane.cli.app import run

NULL = ("--plugins", "inferplane.testing.null", "--device", "null", "--max-model-len", "256")


@pytest.fixture
def folder(tiny_model: Callable[..., Path]) -> str:
    return str(tiny_model("llama"))


def test_generate_prints_text_and_tells_the_device(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["generate", "hello", "--model", folder, "--max-tokens", "12", *NULL]
    assert run([*arguments, "--temperature", "0"]) == 0
    captured = capsys.readouterr()
    assert captured.out.endswith("\n")
    assert "null" in captured.err.splitlines()[-1]


def test_greedy_answers_are_equal(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for _ in range(2):
        assert run(["chat", folder, "--once", "hi", "--temperature", "0", *NULL]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert said[0].strip()


def test_a_prompt_may_come_from_standard_input(
    folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hello"))
    assert run(["generate", "--model", folder, "--max-tokens", "3", *NULL]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra", "code", "said"),
    [
        (["--temperature", "7"], 2, "--temperature"),
        (["--device", "acme"], 3, "acme"),
        (["--options", "refuse=1,nope=2"], 2, "nope"),
    ],
)
def test_what_cannot_be_run_is_one_line_with_its_code(
    folder: str, extra: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["generate", "hello", "--model", folder, *NULL[:2], *extra]
    assert run(arguments) == code
    errors = [e for e in capsys.readouterr().err.splitlines() if e.startswith("error: ")]
    assert len(errors) == 1
    assert said in errors[0]


def test_a_folder_without_a_model_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["generate", "hello", "--model", str(tmp_path), *NULL]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_bench_offline_writes_figures(folder: str, tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    shape = ["--requests", "4", "--input-tokens", "8", "--output-tokens", "8", "--concurrency", "2"]
    done = run(["bench", "offline", folder, *shape, "--output", str(output), *NULL])
    figures = json.loads(output.read_text())
    assert done == 0
    assert figures["workload"]["output_tokens"] == 32
    assert len(figures["seconds"]) == 3
    assert figures["engine"]["device"] == "null"
    assert figures["output_tokens_per_s"] == pytest.approx(32 / min(figures["seconds"]))


def test_no_engine_process_is_left_behind(folder: str) -> None:
    before = set(os.listdir("/proc"))
    run(["generate", "hello", "--model", folder, "--max-tokens", "2", *NULL])
    left = [pid for pid in set(os.listdir("/proc")) - before if pid.isdigit()]
    assert not [pid for pid in left if "inferplane.engine" in command_of(pid)]


def command_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""
