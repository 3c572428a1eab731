"""From the first second to the exit code, with a real process."""

import json
import os
import signal
import subprocess
import sys

import httpx2
import pytest

from inferplane.api_keys import ApiKey
from inferplane.errors import AddressError, ConfigError
from inferplane.server.run import check_exposure, open_socket

TEXT = "/v1/completions"


class Process:
    """`inferplane serve` over the null device."""

    def __init__(self, folder, *flags, **options):
        given = [f"--options={name}={value}" for name, value in options.items()]
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "inferplane",
                "serve",
                str(folder),
                *("--device", "null", "--plugins", "inferplane.testing.null"),
                *("--port", "0", "--max-model-len", "512", "--served-names", "tiny"),
                *given,
                *flags,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        quiet = "--log-format" in flags
        line = "" if quiet else self.process.stdout.readline()
        self.url = next((w.rstrip(",") for w in line.split() if w.startswith("http")), "")

    def client(self):
        return httpx2.Client(base_url=self.url, timeout=60.0)

    def wait_line(self, start):
        for line in self.process.stdout:
            if line.startswith(start):
                return line
        raise AssertionError(self.process.stderr.read())

    def end(self):
        """(exit code, what it said on stderr)."""
        self.process.stdout.read()
        errors = self.process.stderr.read()
        return self.process.wait(60), errors


@pytest.fixture
def launch(model_folder):
    made = []

    def begin(*flags, **options):
        made.append(Process(model_folder, *flags, **options))
        return made[-1]

    yield begin
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()
        one.process.stdout.close()
        one.process.stderr.close()


def test_while_it_loads_probes_say_how_far_and_models_are_listed(launch):
    server = launch("--load-wait", "0", load_ms=60_000)
    with server.client() as client:
        assert client.get("/livez").status_code == 200
        startup = client.get("/startupz")
        assert startup.status_code == 503
        assert startup.json()["phase"] in ("config", "load")
        ready = client.get("/readyz")
        assert ready.status_code == 503 and ready.json()["status"].startswith("loading")
        assert client.get("/health").status_code == 503
        models = client.get("/v1/models").json()
        assert models["data"][0]["inferplane"]["state"] == "loading"
        refused = client.post(TEXT, json={"prompt": "a"})
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "model_loading"
        assert 1 <= int(refused.headers["retry-after"]) <= 120
        assert client.post("/tokenize", json={"prompt": "a"}).json()["count"] == 1
        bad = client.post(TEXT, json={"prompt": 5})
        assert bad.status_code == 400
    server.process.send_signal(signal.SIGTERM)
    assert server.end()[0] == 0


def test_requests_wait_for_a_model_that_is_loading(launch):
    server = launch(load_ms=800)
    with server.client() as client:
        assert client.post(TEXT, json={"prompt": "a", "max_tokens": 2}).status_code == 200
        started = client.get("/startupz").json()
        assert started["phase"] == "ready" and started["pct"] == 100


@pytest.mark.case("drain")
@pytest.mark.case("sigterm-aborts")
def test_a_signal_drains_and_nothing_is_lost(launch):
    server = launch("--drain-delay", "0", step_ms=20)
    server.wait_line("Ready")
    body = {"prompt": "a", "max_tokens": 50, "ignore_eos": True, "stream": True}
    with (
        server.client() as client,
        server.client() as other,
        client.stream("POST", TEXT, json=body) as response,
    ):
        chunks = response.iter_raw()
        text = next(chunks)
        server.process.send_signal(signal.SIGTERM)
        while other.get("/readyz").status_code == 200:
            pass
        assert other.get("/livez").status_code == 200
        refused = other.post(TEXT, json=body)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "draining"
        assert refused.headers["connection"] == "close"
        text += b"".join(chunks)
    assert text.endswith(b"data: [DONE]\n\n") and b'"length"' in text
    assert server.end()[0] == 0


def test_during_the_drain_delay_requests_are_still_served(launch):
    server = launch("--drain-delay", "30")
    server.wait_line("Ready")
    with server.client() as client:
        server.process.send_signal(signal.SIGTERM)
        while client.get("/readyz").status_code == 200:
            pass
        assert client.get("/health").status_code == 200
        assert client.post(TEXT, json={"prompt": "a", "max_tokens": 1}).status_code == 200
    server.process.send_signal(signal.SIGTERM)
    assert server.end()[0] == 0


def test_what_outlives_the_drain_ends_with_an_error_frame(launch):
    server = launch("--drain-delay", "0", "--shutdown-timeout", "0.2", step_ms=50)
    server.wait_line("Ready")
    body = {"prompt": "a", "max_tokens": 400, "ignore_eos": True, "stream": True}
    with server.client() as client, client.stream("POST", TEXT, json=body) as response:
        chunks = response.iter_raw()
        text = next(chunks)
        server.process.send_signal(signal.SIGTERM)
        text += b"".join(chunks)
    events = [e for e in text.decode().split("\n\n") if e]
    assert events[-1] == "data: [DONE]"
    assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "draining"
    assert server.end()[0] == 0


def test_an_interrupt_ends_an_idle_server_without_delay(launch):
    server = launch("--drain-delay", "100")
    server.wait_line("Ready")
    server.process.send_signal(signal.SIGINT)
    assert server.end()[0] == 0


@pytest.mark.parametrize(("refuse", "code"), [("config", 2), ("capacity", 4), ("device", 7)])
@pytest.mark.case("exit-zero")
def test_a_start_that_fails_says_why_and_exits_with_its_code(launch, refuse, code):
    server = launch(refuse=refuse)
    exit_code, errors = server.end()
    assert exit_code == code
    assert "error: " in errors and "Traceback" not in errors


@pytest.mark.case("parent-death")
def test_a_killed_server_leaves_no_process_behind(launch):
    server = launch()
    server.wait_line("Ready")
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(server.process.pid)], capture_output=True, text=True
    ).stdout.split()
    assert children
    server.process.kill()
    server.process.wait()
    for pid in children:
        while _alive(int(pid)):
            pass


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_each_request_is_one_json_line_without_its_prompt(launch):
    server = launch("--log-format", "json")
    first = None
    while first is None:
        line = json.loads(server.process.stderr.readline())
        first = line if line["event"] == "listening" else None
    with httpx2.Client(base_url=first["url"], timeout=60) as client:
        client.post(TEXT, json={"prompt": "my secret", "max_tokens": 3})
        client.get("/livez")
        client.post(TEXT, json={"prompt": 5}, headers={"x-request-id": "seen"})
    server.process.send_signal(signal.SIGINT)
    _, errors = server.end()
    lines = [json.loads(line) for line in errors.splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert [line["status"] for line in requests] == [200, 400]
    assert requests[0]["completion_tokens"] == 3
    assert requests[1]["request_id"] == "seen" and requests[1]["code"] == "invalid_type"
    assert "secret" not in errors


def test_beyond_loopback_a_key_is_needed(settings_for):
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.test"):
        with pytest.raises(ConfigError, match="--insecure-no-auth"):
            check_exposure(settings_for(host=host))
        check_exposure(settings_for(host=host, insecure_no_auth=True))
        key = ApiKey("a", b"x" * 32)
        check_exposure(settings_for(host=host, api_keys=(key,)))
    for host in ("127.0.0.1", "::1", "localhost", "127.8.9.1"):
        check_exposure(settings_for(host=host))


def test_a_taken_port_is_an_error_of_its_own(settings_for):
    with open_socket(settings_for()) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressError, match=str(port)) as caught:
            open_socket(settings_for(port=port))
    assert caught.value.exit_code == 5


def test_a_unix_socket_is_for_its_owner_alone_and_replaces_a_dead_one(settings_for, tmp_path):
    settings = settings_for(uds=tmp_path / "s")
    open_socket(settings).close()
    with open_socket(settings):
        assert os.stat(tmp_path / "s").st_mode & 0o777 == 0o600
