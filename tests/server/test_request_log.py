"""One line a request, as text or JSON; never what was said, never a key."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from inferplane.server.front_door import Ended
from inferplane.server.request_log import configure_logging, log_request

LOGGER = logging.getLogger("inferplane.server")
FACTS = {"prompt_tokens": 3, "completion_tokens": 4, "finish": "stop", "code": "queue_full"}
ENDED = Ended("r-1", "POST", "/v1/messages", 429, 0.1234, "queue_full", FACTS)


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, left as it was."""
    found, ours = logging.getLogger(), logging.getLogger("inferplane")
    kept = found.handlers[:], found.level, ours.level
    yield found
    found.handlers[:], level, our_level = kept
    found.setLevel(level)
    ours.setLevel(our_level)


def told(form: str, say) -> str:
    stream = io.StringIO()
    configure_logging(form, stream)
    say()
    return stream.getvalue()


def test_a_line_of_json_holds_the_facts_of_a_request(root):
    line = told("json", lambda: log_request(LOGGER, ENDED))
    found = json.loads(line)
    assert line.count("\n") == 1 and found.pop("time") > 1e9
    assert found == {
        "level": "info",
        "logger": "inferplane.server",
        "event": "request",
        "request_id": "r-1",
        "method": "POST",
        "route": "/v1/messages",
        "status": 429,
        "ms": 123.4,
        "code": "queue_full",
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "finish": "stop",
    }


def test_a_line_of_text_holds_the_same(root):
    line = told("text", lambda: log_request(LOGGER, ENDED))
    for word in ("info", "request_id=r-1", "status=429", "code=queue_full", "finish=stop"):
        assert word in line


def test_a_failure_brings_its_traceback_in_one_object(root):
    def fail() -> None:
        try:
            raise ValueError("odd \N{SNOWMAN}\nline")
        except ValueError as error:
            LOGGER.error("failure in request %s", "r-2", exc_info=error)

    found = json.loads(told("json", fail))
    assert found["event"] == "failure in request r-2" and "ValueError: odd ☃" in found["trace"]


def test_probes_and_scrapes_are_not_told(root):
    quiet = Ended("r", "GET", "/livez", 200, 0.1, "")
    assert told("json", lambda: log_request(LOGGER, quiet)) == ""


def test_nothing_that_was_said_and_no_key_is_in_the_log(live, caplog):
    body = {"prompt": "my secret", "max_tokens": 3, "user": "somebody"}
    with caplog.at_level(logging.DEBUG, "inferplane"), live.client("a-key") as client:
        answer = client.post("/v1/completions", json=body, headers={"x-request-id": "seen"})
        client.get("/v1/models")
    text = answer.json()["choices"][0]["text"]
    ours = [r for r in caplog.records if r.name.startswith("inferplane")]
    told = [str(getattr(r, "facts", "")) + r.getMessage() for r in ours]
    (line,) = (one for one in told if "'seen'" in one)
    assert "'prompt_tokens'" in line and "'finish': 'length'" in line
    for secret in ("my secret", "somebody", "a-key", *([text] if len(text) > 2 else [])):
        assert not any(secret in one for one in told)
