"""`inferplane inspect` tells what serving goes by: the same files, picks and plan."""

import json
from pathlib import Path

import pytest

from inferplane.cli.app import run
from inferplane.testing.tiny import write_tiny_model

NULL = ("--plugins", "inferplane.testing.null", "--device", "null")
HERMES = "{{ tools }}{% for m in messages %}{{ m.content }}<tool_call>{% endfor %}<think>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("inspected") / "tiny"
    write_tiny_model(made, "qwen3")
    (made / "generation_config.json").write_text('{"temperature": 0.6}')
    return made


def inspected(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert run(["inspect", *arguments, "--json", *NULL]) == 0
    return json.loads(capsys.readouterr().out)


def test_files_picks_and_plan_are_told_as_json(folder, capsys) -> None:
    (folder / "chat_template.jinja").write_text(HERMES)
    found = inspected(capsys, str(folder))
    config = json.loads((folder / "config.json").read_text())
    assert found["architecture"]["name"] == config["architectures"][0]
    assert found["architecture"]["layers"] == config["num_hidden_layers"]
    dtypes = found["weights"]["dtypes"]
    assert sum(one["bytes"] for one in dtypes.values()) == found["weights"]["bytes"] > 0
    assert found["weights"]["parameters"] > 0 and len(dtypes) == 1
    assert found["tools"]["format"] == "hermes" and "<tool_call>" in found["tools"]["evidence"]
    assert found["reasoning"]["begin"].strip() == "<think>"
    assert found["chat_template"]["takes_tools"] is True
    assert found["sampling_defaults"] == {"temperature": 0.6}
    served = found["served_by"]
    assert served["device"] == "null" and "generate" in served["tasks"]
    assert served["model"].startswith("inferplane.models.qwen3:")
    assert served["takes_pictures"] is False


def test_a_model_that_sees_says_so_and_whose_class_it_is(tmp_path, capsys) -> None:
    write_tiny_model(tmp_path, "llama")
    text = json.loads((tmp_path / "config.json").read_text())
    whole = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_id": 3,
        "text_config": text,
        "vision_config": {},
    }
    (tmp_path / "config.json").write_text(json.dumps(whole))
    served = inspected(capsys, str(tmp_path))["served_by"]
    assert served["takes_pictures"] is True
    assert served["model"].endswith(":TransformersPictures")
    assert run(["inspect", str(tmp_path), *NULL]) == 0
    assert "takes pictures" in capsys.readouterr().out


def test_a_template_of_the_users_is_what_counts(folder, tmp_path, capsys) -> None:
    plain = tmp_path / "plain.jinja"
    plain.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    found = inspected(capsys, str(folder), "--chat-template", str(plain))
    assert found["chat_template"]["from"] == str(plain)
    assert "takes no tools" in found["tools"]["evidence"]


def test_people_get_a_line_for_each_fact(folder, capsys) -> None:
    (folder / "chat_template.jinja").write_text(HERMES)
    assert run(["inspect", str(folder), *NULL]) == 0
    shown = capsys.readouterr().out
    for word in (
        "architecture",
        "weights",
        "tool calls",
        "because",
        "served by",
        "temperature 0.6",
    ):
        assert word in shown


def test_a_model_that_nothing_serves_is_told_with_the_reason(folder, capsys) -> None:
    arguments = ["inspect", str(folder), "--json", "--plugins", "inferplane.testing.null"]
    assert run([*arguments, "--device", "acme"]) == 0
    served = json.loads(capsys.readouterr().out)["served_by"]
    assert served["device"] is None and "acme" in served["reason"]


def test_what_is_no_model_is_one_line_and_its_exit_code(tmp_path, capsys) -> None:
    assert run(["inspect", str(tmp_path), *NULL]) == 2
    assert "no model" in capsys.readouterr().err
