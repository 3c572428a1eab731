"""The docs name every setting, hook, verb and exit code that exists, and none that does not."""

import re
import subprocess
import sys
from pathlib import Path

import inferplane.hookspecs
from inferplane import errors
from inferplane.cli.app import build_app

ROOT = Path(__file__).parents[2]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def test_generated_tables_are_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "docs", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_every_hook_is_documented_and_no_other() -> None:
    hooks = {name for name in vars(inferplane.hookspecs) if name.startswith("register_")}
    assert set(re.findall(r"\| `(register_\w+)` \|", page("hooks.md"))) == hooks


def test_every_verb_is_documented_and_no_other() -> None:
    app = build_app()
    verbs = {name for name in app if not name.startswith("-")}
    groups = {"plugins", "bench", "config"}
    wanted = (verbs - groups) | {f"{g} {m}" for g in groups for m in app[g] if m[0] != "-"}
    cells = re.findall(r"^\| (`.*?`) \|", page("command-line.md"), re.MULTILINE)
    named = {re.sub(r" [A-Z\[].*", "", code) for cell in cells for code in cell.split("`")[1::2]}
    assert named - {"plugins"} == wanted


def test_every_exit_code_is_documented() -> None:
    kinds = [kind for kind in vars(errors).values() if hasattr(kind, "exit_code")]
    codes = {kind.exit_code for kind in kinds} | {0, 5, 130}
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", page("command-line.md"), re.M)}
    assert listed == codes
