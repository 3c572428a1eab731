"""The example plugin of docs/custom-models.md, as printed, serves a model."""

import json
import re
from pathlib import Path

import pytest

from inferplane import LLM, SamplingParams
from inferplane.testing.tiny import write_tiny_model

PAGE = Path(__file__).parents[2] / "docs" / "custom-models.md"
FILE = re.compile(r"^```python\n# (inferplane_acme/\w+\.py)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROMPT = list(range(20, 45))


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Module name of the plugin, importable here and in the planner."""
    for name, text in FILE.findall(PAGE.read_text(encoding="utf-8")):
        path = tmp_path / "plugin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "plugin"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "plugin"))
    return "inferplane_acme.plugin"


def tokens(folder: Path, **settings: object) -> tuple[int, ...]:
    sampling = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
    with LLM(str(folder), device="cpu", dtype="float32", max_model_len=64, **settings) as llm:
        return llm.generate(PROMPT, sampling)[0].token_ids


def test_the_printed_model_computes_what_it_says_it_is(plugin: str, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model", "llama")
    wanted = tokens(folder)
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["AcmeForCausalLM"]
    (folder / "config.json").write_text(json.dumps(config))
    assert tokens(folder, plugins=("cpu", plugin)) == wanted


def test_the_printed_plugin_is_short() -> None:
    lines = [text.count("\n") for _, text in FILE.findall(PAGE.read_text(encoding="utf-8"))]
    assert len(lines) == 2 and sum(lines) <= 60
