"""What can be reached of a running server, and what one key learns of another."""

from __future__ import annotations

import asyncio
import json
import re
import select
import socket

import psutil
import pytest

LEAK = re.compile(rb"0x[0-9a-f]{6,}|Traceback|File \"|site-packages|/(?:tmp|home|usr)/|\.py\b")
PROMPT = [5 + n % 90 for n in range(120)]


@pytest.fixture(scope="module")
def exposed(serve_all, key_file):
    return serve_all("--api-key-file", str(key_file), placement="worker")


def ask(server, method: str, path: str, body=None, key: str = "k0", headers: str = ""):
    carrier = f"authorization: Bearer {key}\r\n"
    return asyncio.run(server.ask(method, path, body, carrier + headers))


def cached_tokens(server, key: str, **more) -> int:
    body = {"prompt": PROMPT, "max_tokens": 1, "temperature": 0} | more
    status, _, answer = ask(server, "POST", "/v1/completions", body, key)
    assert status == 200
    details = json.loads(answer)["usage"]["prompt_tokens_details"] or {}
    return details.get("cached_tokens") or 0


@pytest.mark.case("open-listener")
@pytest.mark.case("junk-on-internal-ports")
def test_the_api_port_alone_listens_and_no_socket_has_a_name(exposed) -> None:
    family = exposed.family
    assert len(family) >= 3, "server, engine and worker"
    inet = [one for process in family for one in process.net_connections("inet")]
    listening = {tuple(one.laddr) for one in inet if one.status == psutil.CONN_LISTEN}
    assert listening == {("127.0.0.1", exposed.port)}
    named = [one.laddr for process in family for one in process.net_connections("unix")]
    assert not any(named), "a socket that others could open by its path"


@pytest.mark.case("ttft-probe")
@pytest.mark.case("chosen-salt")
def test_no_key_finds_the_prompts_of_another_warm(exposed) -> None:
    assert cached_tokens(exposed, "k1", cache_salt="mine") == 0
    assert cached_tokens(exposed, "k1", cache_salt="mine") > 0, "else this test shows nothing"
    for salt in ("mine", "k1", "k1\0mine"):
        assert cached_tokens(exposed, "k2", cache_salt=salt) == 0
    assert cached_tokens(exposed, "k2", cache_salt="mine") > 0


@pytest.mark.case("parser-quirks")
@pytest.mark.parametrize("path", ["/openapi.json", "/v1/models", "/livez"])
def test_ranges_are_ignored_on_every_kind_of_answer(exposed, path) -> None:
    plain = ask(exposed, "GET", path)
    ranges = "range: bytes=" + ",".join(["0-0"] * 5000) + "\r\n"
    status, headers, body = ask(exposed, "GET", path, headers=ranges)
    assert (status, body) == (plain[0], plain[2])
    assert "content-range" not in headers and headers.get("accept-ranges", "none") == "none"


@pytest.mark.case("ssrf")
@pytest.mark.case("url-in-text")
def test_an_address_in_a_request_is_never_opened(exposed) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bait:
        address = f"http://127.0.0.1:{bait.getsockname()[1]}/x.png"
        text = {"prompt": f"![]({address}) <img src={address}>", "max_tokens": 1}
        assert ask(exposed, "POST", "/v1/completions", text)[0] == 200
        picture = {"type": "image_url", "image_url": {"url": address}}
        chat = {"messages": [{"role": "user", "content": [picture]}], "max_tokens": 1}
        assert ask(exposed, "POST", "/v1/chat/completions", chat)[0] == 400
        readable, _, _ = select.select([bait], [], [], 0)
        assert not readable, "somebody came"


@pytest.mark.case("leaky-errors")
def test_no_refusal_names_a_path_a_class_or_an_address_in_memory(exposed) -> None:
    bodies = ({}, {"prompt": {"a": 1}}, {"prompt": "a", "response_format": {"type": "x"}})
    answers = [ask(exposed, "POST", path, body) for path in routes(exposed) for body in bodies]
    answers += [ask(exposed, "DELETE", path) for path in routes(exposed)]
    answers += [ask(exposed, "GET", path, key="wrong") for path in routes(exposed)]
    assert {status for status, _, _ in answers} >= {400, 401, 405}
    for status, _, body in answers:
        assert status < 500
        assert status == 200 or not LEAK.search(body), body


def routes(server) -> list[str]:
    _, _, document = ask(server, "GET", "/openapi.json")
    return [re.sub(r"\{.*?\}", "x", path) for path in json.loads(document)["paths"]]
