"""README's two commands are the ones CI runs, so that README and reality cannot part."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def command(section: str) -> str:
    done = subprocess.run(
        [ROOT / "scripts" / "readme-command", section], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_commands_are_taken_from_the_readmes_text() -> None:
    assert command("Run it") == "pip install ./core ./plugins/cpu && inferplane serve"
    assert command("Change it") == "pip install -r requirements-dev.txt && scripts/test"
    assert all(f"```bash\n{command(s)}\n" in README for s in ("Run it", "Change it"))


def test_a_section_without_a_command_is_an_error() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        command("Where to look")


def test_ci_runs_both_commands_and_the_checks() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    smoke = (ROOT / "scripts" / "smoke").read_text(encoding="utf-8")
    assert 'readme-command "Change it"' in script
    assert "\nscripts/check\n" in script
    assert "\nscripts/smoke\n" in script
    assert '"readme-command", "Run it"' in smoke.replace('" / "', '", "')


def test_what_it_is_takes_five_lines() -> None:
    intro = README.partition("\n## ")[0].partition("\n\n")[2].strip()
    assert len(intro.splitlines()) == 5


def test_scripts_are_executable_and_end_at_the_first_failure() -> None:
    for path in [*(ROOT / "scripts").iterdir(), ROOT / ".ci" / "run"]:
        text = path.read_text(encoding="utf-8")
        assert path.stat().st_mode & 0o111, path.name
        if re.match(r"#!.*bash", text):
            assert "set -euo pipefail" in text, path.name
