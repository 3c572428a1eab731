"""`inferplane run-batch`: the same lines and results as /v1/batches, without a server."""

import json
import subprocess
import sys


def run(folder, tmp_path, *lines):
    given, made = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    given.write_text("\n".join(lines))
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "inferplane", "run-batch", "-i", str(given), "-o", str(made)),
            *("--model", str(folder), "--device", "null", "--max-model-len", "512"),
            *("--plugins", "inferplane.testing.null"),
        ],
        capture_output=True,
        text=True,
        timeout=100,
    )
    found = made.read_text().splitlines() if made.exists() else []
    return ended, {one["custom_id"]: one for one in map(json.loads, found)}


def line(id, url, **body):
    return json.dumps({"custom_id": id, "method": "POST", "url": url, "body": body})


def test_each_request_of_a_file_is_answered_and_errors_show_in_the_exit_code(
    model_folder, tmp_path
):
    messages = [{"role": "user", "content": "hi"}]
    ended, found = run(
        model_folder,
        tmp_path,
        line("a", "/v1/completions", prompt="hi", max_tokens=3),
        line("b", "/v1/chat/completions", messages=messages, max_tokens=2),
        line("c", "/v1/completions", prompt="hi", temperature=9),
    )
    assert ended.returncode == 1 and "2 of 3 requests succeeded" in ended.stderr
    assert {id: one["response"]["status_code"] for id, one in found.items()} == {
        "a": 200,
        "b": 200,
        "c": 400,
    }
    assert found["a"]["response"]["body"]["usage"]["completion_tokens"] == 3
    assert found["c"]["response"]["body"]["error"]["param"] == "temperature"


def test_a_file_that_cannot_be_run_is_refused_before_a_model_is_loaded(model_folder, tmp_path):
    ended, _ = run(model_folder, tmp_path, line("a", "/v1/images"))
    assert ended.returncode not in (0, 1) and "line 1: url must be" in ended.stderr
