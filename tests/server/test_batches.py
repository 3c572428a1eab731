"""Files and batches: what may be uploaded, what becomes of its lines, and who sees it."""

import hashlib
import json
import time

import pytest

from inferplane.api_keys import ApiKey
from inferplane.server.batches.lines import read_lines
from inferplane.server.limits import Limits

FILES = "/v1/files"
BATCHES = "/v1/batches"
TEXT = "/v1/completions"


def line(id, url=TEXT, **body):
    request = {"custom_id": id, "method": "POST", "url": url}
    return json.dumps(request | {"body": {"prompt": "hi", "max_tokens": 2} | body})


POLL_S = 0.01
"""Between two looks, so that what is waited for gets the processor."""


def upload(http, text, name="in.jsonl", purpose="batch"):
    data = {} if purpose is None else {"purpose": purpose}
    return http.post(FILES, data=data, files={"file": (name, text.encode())})


def begin(http, *lines, endpoint=TEXT):
    id = upload(http, "\n".join(lines)).json()["id"]
    body = {"input_file_id": id, "endpoint": endpoint, "completion_window": "24h"}
    return http.post(BATCHES, json=body | {"metadata": {"who": "me"}}).json()


def ended(http, id):
    while True:
        batch = http.get(f"{BATCHES}/{id}").json()
        if batch["status"] not in ("validating", "in_progress", "finalizing", "cancelling"):
            return batch
        time.sleep(POLL_S)


def results(http, id):
    if id is None:
        return {}
    text = http.get(f"{FILES}/{id}/content").text
    return {one["custom_id"]: one for one in map(json.loads, text.splitlines())}


def test_a_file_is_stored_listed_read_and_deleted(http):
    made = upload(http, "abc\n", "../../etc/passwd").json()
    assert made["object"] == "file" and made["bytes"] == 4 and made["purpose"] == "batch"
    assert http.get(f"{FILES}/{made['id']}").json() == made
    assert http.get(f"{FILES}/{made['id']}/content").content == b"abc\n"
    assert made["id"] in [one["id"] for one in http.get(FILES).json()["data"]]
    assert http.get(FILES, params={"purpose": "batch_output", "limit": 1}).status_code == 200
    deleted = http.delete(f"{FILES}/{made['id']}").json()
    assert deleted == {"id": made["id"], "object": "file", "deleted": True}
    for answer in (
        http.get(f"{FILES}/{made['id']}"),
        http.get(f"{FILES}/{made['id']}/content"),
        http.delete(f"{FILES}/{made['id']}"),
    ):
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "file_not_found"


def test_contents_never_lie_outside_the_folder(live, http):
    made = upload(http, "x", "../../../outside").json()
    path = live.context.files.path(made["id"])
    assert path.exists() and path.parent == live.context.state.folder("files")
    assert http.get(f"{FILES}/..%2f..%2fstate.sqlite").status_code in (400, 404)


@pytest.mark.parametrize(
    ("param", "code", "purpose"),
    [("purpose", "missing_field", None), ("purpose", "unknown_value", "fine-tune")],
)
def test_a_purpose_is_needed(http, param, code, purpose):
    error = upload(http, "x", purpose=purpose).json()["error"]
    assert (error["param"], error["code"]) == (param, code)


def test_uploads_must_be_forms_that_can_be_read(http):
    assert http.post(FILES, json={}).status_code == 415
    form = {"content-type": "multipart/form-data; boundary=x"}
    for data in (
        b"junk",
        b"--x\r\njunk",
        b"--x\r\ncontent-disposition: form-data\r\n\r\nx\r\n--x--",
    ):
        answer = http.post(FILES, content=data, headers=form)
        assert answer.status_code == 400, data
    bare = http.post(FILES, content=b"x", headers={"content-type": "multipart/form-data"})
    assert bare.status_code == 400
    packed = http.post(FILES, content=b"x", headers={**form, "content-encoding": "gzip"})
    assert packed.status_code == 415
    without = http.post(FILES, data={"purpose": "batch"}, files={"other": b"x"})
    assert without.json()["error"]["param"] == "file"


def test_files_are_bounded(start):
    server = start(limits=Limits(file_bytes=1200, files=2, files_bytes=1500))
    with server.client() as http:
        assert upload(http, "x" * 2000).status_code == 413
        assert upload(http, "x" * 700).status_code == 200
        assert upload(http, "x" * 820).json()["error"]["code"] == "too_many_items"
        assert upload(http, "x").status_code == 200
        assert upload(http, "x").json()["error"]["code"] == "too_many_items"


def test_every_line_is_answered_as_the_route_would(http):
    batch = begin(http, line("a", temperature=0), line("b", max_tokens=0), line("c", temperature=9))
    assert batch["status"] == "validating" and batch["metadata"] == {"who": "me"}
    batch = ended(http, batch["id"])
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 3, "completed": 1, "failed": 2}
    good, bad = (results(http, batch[f"{kind}_file_id"]) for kind in ("output", "error"))
    assert set(good) == {"a"} and set(bad) == {"b", "c"}
    direct = http.post(TEXT, json={"prompt": "hi", "max_tokens": 2, "temperature": 0}).json()
    answer = good["a"]["response"]
    assert answer["status_code"] == 200 and answer["body"]["choices"] == direct["choices"]
    assert bad["c"]["response"]["body"]["error"]["param"] == "temperature"
    assert bad["b"]["response"]["status_code"] == 400
    listed = http.get(BATCHES, params={"limit": 1}).json()["data"]
    assert listed == [batch]
    conflict = http.post(f"{BATCHES}/{batch['id']}/cancel")
    assert conflict.status_code == 409


def test_chats_and_responses_can_be_lines_too(http):
    chat, answers = "/v1/chat/completions", "/v1/responses"
    messages = [{"role": "user", "content": "hi"}]
    one = json.dumps(
        {
            "custom_id": "a",
            "method": "POST",
            "url": chat,
            "body": {"messages": messages, "max_tokens": 1},
        }
    )
    assert ended(http, begin(http, one, endpoint=chat)["id"])["request_counts"]["completed"] == 1
    two = json.dumps(
        {
            "custom_id": "a",
            "method": "POST",
            "url": answers,
            "body": {"input": "hi", "max_output_tokens": 1},
        }
    )
    assert ended(http, begin(http, two, endpoint=answers)["id"])["request_counts"]["completed"] == 1


def test_a_bad_file_fails_before_anything_runs_and_names_the_lines(http):
    batch = ended(http, begin(http, line("a"), "{", line("a"), line("b", url="/v1/x"))["id"])
    assert batch["status"] == "failed" and batch["output_file_id"] is None
    found = [(one["line"], one["code"]) for one in batch["errors"]["data"]]
    assert found == [
        (2, "invalid_json_line"),
        (3, "duplicate_custom_id"),
        (4, "invalid_url"),
    ]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "empty_file"),
        ("[]", "invalid_json_line"),
        ('{"custom_id": 5}', "missing_required_parameter"),
        ('{"custom_id": "a", "method": "GET"}', "invalid_method"),
        ('{"custom_id": "a", "method": "POST", "url": 5}', "invalid_url"),
        (
            '{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": 5}',
            "missing_required_parameter",
        ),
        (line("a", stream=True), "unsupported_feature"),
        ("\n".join(line(str(n)) for n in range(4)), "too_many_lines"),
        ('{"custom_id": "a", "custom_id": "b"}', "invalid_json_line"),
    ],
)
def test_a_line_that_is_none_says_why(text, code):
    _, errors = read_lines(text.encode(), (TEXT,), 3)
    assert [one.code for one in errors] == [code]


BAD = [
    ({}, "input_file_id", "missing_field"),
    ({"input_file_id": "file-none"}, "input_file_id", "file_not_found"),
    ({"endpoint": "/v1/images"}, "endpoint", "unknown_value"),
    ({"completion_window": "1h"}, "completion_window", "unknown_value"),
    ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
]


@pytest.mark.parametrize(("body", "param", "code"), BAD)
def test_a_bad_batch_is_refused_with_the_field(http, body, param, code):
    base = {"endpoint": TEXT, "completion_window": "24h"}
    if body:
        base["input_file_id"] = "file-none"
    error = http.post(BATCHES, json=base | body).json()["error"]
    assert (error["param"], error["code"]) == (param, code)


def key(name):
    return ApiKey(name, hashlib.sha256(name.encode()).digest())


def test_files_and_batches_belong_to_their_key(start):
    server = start(api_keys=(key("ann"), key("bob")))
    with server.client("ann") as ann, server.client("bob") as bob:
        batch = begin(ann, line("a"))
        for path in (f"{BATCHES}/{batch['id']}", f"{FILES}/{batch['input_file_id']}"):
            assert ann.get(path).status_code == 200
            assert bob.get(path).status_code == 404
        assert bob.get(BATCHES).json()["data"] == bob.get(FILES).json()["data"] == []
        body = {"input_file_id": batch["input_file_id"], "endpoint": TEXT}
        stolen = bob.post(BATCHES, json=body | {"completion_window": "24h"})
        assert stolen.status_code == 404
        assert ended(ann, batch["id"])["status"] == "completed"


def test_a_cancelled_batch_keeps_what_is_done(start):
    server = start(limits=Limits(batch_at_once=1, batches=1), options={"step_ms": "50"})
    with server.client() as http:
        batch = begin(http, line("a", max_tokens=1), *(line(f"{n}", max_tokens=400) for n in "bc"))
        crowded = http.post(
            BATCHES,
            json={
                "input_file_id": batch["input_file_id"],
                "endpoint": TEXT,
                "completion_window": "24h",
            },
        )
        assert crowded.status_code == 429
        while http.get(f"{BATCHES}/{batch['id']}").json()["request_counts"]["completed"] < 1:
            time.sleep(POLL_S)
        assert http.post(f"{BATCHES}/{batch['id']}/cancel").json()["status"] == "cancelling"
        batch = ended(http, batch["id"])
        assert batch["status"] == "cancelled"
        assert set(results(http, batch["output_file_id"])) == {"a"}
        left = results(http, batch["error_file_id"])
        assert {id: one["error"]["code"] for id, one in left.items()} == {
            "b": "batch_cancelled",
            "c": "batch_cancelled",
        }


def test_a_batch_goes_on_after_a_restart(start, tmp_path):
    limits = Limits(batch_at_once=1)
    first = start(state=tmp_path / "state", limits=limits, options={"step_ms": "50"})
    with first.client() as http:
        id = begin(http, line("a", max_tokens=1), line("b", max_tokens=60))["id"]
        while http.get(f"{BATCHES}/{id}").json()["request_counts"]["completed"] < 1:
            time.sleep(POLL_S)
    first.context.lifecycle.shutdown_timeout_s = 0.0
    first.stop()
    second = start(state=tmp_path / "state", limits=limits)
    with second.client() as http:
        batch = ended(http, id)
        assert batch["status"] == "completed"
        assert batch["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
        assert list(results(http, batch["output_file_id"])) == ["a", "b"]
