"""Connections that drip, flood or stall end by a limit, and everybody else is served meanwhile."""

import json

import pytest

from inferplane.server.limits import Limits

HOST = b"host: 127.0.0.1\r\n"


@pytest.fixture(scope="module")
def guarded(start):
    limits = Limits(
        header_deadline_s=0.4,
        body_idle_s=0.3,
        body_deadline_s=0.8,
        connections=4,
        probe_connections=2,
        requests_per_connection=3,
        body_bytes=10_000,
    )
    server = start(limits)
    server.wait_ready()
    return server


def answer(link):
    """(status, body) of whatever comes until the connection ends or one answer is whole."""
    with link.makefile("rb") as file:
        line = file.readline()
        if not line:
            return None, b""
        length = 0
        while (header := file.readline()) not in (b"\r\n", b""):
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return int(line.split()[1]), file.read(length)


def code_of(body):
    return json.loads(body)["error"]["code"]


def ask(server, data):
    with server.connect() as link:
        link.sendall(data)
        return answer(link)


def settled(server):
    """No connection of an earlier test is left."""
    while server.server.server_state.connections:
        pass


@pytest.mark.case("slow-headers")
def test_a_head_that_drips_ends_at_an_absolute_deadline(guarded):
    with guarded.connect() as link:
        link.sendall(b"GET /livez HTTP/1.1\r\n")
        status, body = answer(link)
    assert status == 408 and code_of(body) == "request_timeout"


def test_a_connection_that_asks_nothing_is_closed_without_a_word(guarded):
    with guarded.connect() as link:
        assert answer(link) == (None, b"")


def test_empty_lines_do_not_keep_a_connection(guarded):
    with guarded.connect() as link:
        link.sendall(b"\r\n\r\n\r\n")
        status, _ = answer(link)
    assert status in (408, None)


@pytest.mark.case("slow-headers")
def test_a_body_that_stops_coming_ends_by_a_deadline(guarded):
    head = b"POST /v1/completions HTTP/1.1\r\n" + HOST
    head += b"content-type: application/json\r\ncontent-length: 50\r\n\r\n{"
    status, body = ask(guarded, head)
    assert status == 408 and code_of(body) == "request_timeout"


@pytest.mark.case("header-flood")
@pytest.mark.parametrize(
    "headers",
    [
        b"x: " + b"a" * 40_000 + b"\r\n",
        b"".join(b"x%d: a\r\n" % i for i in range(150)),
        b"".join(b"x%d: %s\r\n" % (i, b"a" * 1000) for i in range(60)),
    ],
)
def test_large_headers_are_refused(guarded, headers):
    status, body = ask(guarded, b"GET /livez HTTP/1.1\r\n" + HOST + headers + b"\r\n")
    assert status == 431 and code_of(body) == "headers_too_large"


@pytest.mark.case("header-flood")
def test_a_header_without_an_end_is_refused_while_it_comes(guarded):
    with guarded.connect() as link:
        link.sendall(b"GET /livez HTTP/1.1\r\n" + HOST + b"x: ")
        sent = 0
        try:
            while sent < 1 << 24:
                sent += link.send(b"a" * 16_384)
        except OSError:
            pass
        assert sent < 1 << 23


def test_a_long_url_is_refused(guarded):
    status, body = ask(guarded, b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    assert status == 414 and code_of(body) == "uri_too_long"


@pytest.mark.case("huge-declared-size")
def test_a_large_body_is_refused_before_it_is_read(guarded):
    head = b"POST /v1/completions HTTP/1.1\r\n" + HOST + b"content-type: application/json\r\n"
    status, body = ask(guarded, head + b"content-length: 5000000000\r\n\r\n")
    assert status == 413 and code_of(body) == "body_too_large"
    chunked = (
        head + b"transfer-encoding: chunked\r\n\r\n" + (b"fff\r\n" + b"a" * 4095 + b"\r\n") * 4
    )
    status, body = ask(guarded, chunked)
    assert status == 413 and code_of(body) == "body_too_large"


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"SSH-2.0-OpenSSH_9\r\n\r\n",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + b"a" * 50 + b"\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n"
        b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: -5\r\n\r\n",
        b"POST /livez HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
    ],
)
def test_what_is_not_http_gets_an_error_body(guarded, data):
    status, body = ask(guarded, data)
    assert status == 400 and code_of(body) == "bad_request"


@pytest.mark.case("slow-headers")
def test_beyond_the_connection_cap_only_probes_are_answered(guarded):
    settled(guarded)
    held = [guarded.connect() for _ in range(4)]
    for link in held:
        link.sendall(b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n")
        assert answer(link)[0] == 200
    try:
        status, body = ask(guarded, b"GET /v1/models HTTP/1.1\r\n" + HOST + b"\r\n")
        assert status == 503 and code_of(body) == "too_many_connections"
        status, _ = ask(guarded, b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n")
        assert status == 200
    finally:
        for link in held:
            link.close()
    settled(guarded)
    assert ask(guarded, b"GET /v1/models HTTP/1.1\r\n" + HOST + b"\r\n")[0] == 200


def test_a_connection_serves_so_many_requests_and_no_more(guarded):
    settled(guarded)
    with guarded.connect() as link:
        for _ in range(3):
            link.sendall(b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n")
            assert answer(link)[0] == 200
        link.settimeout(30)
        assert link.recv(1) == b""


def test_kept_alive_connections_are_served_after_a_pause(guarded):
    settled(guarded)
    with guarded.connect() as link:
        for _ in range(2):
            link.sendall(b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n")
            assert answer(link)[0] == 200
            with guarded.connect() as other:  # outlives the head deadline of a silent connection
                assert answer(other) == (None, b"")


def test_refusals_are_counted_by_reason(guarded):
    with guarded.client() as client:
        text = client.get("/metrics").text
    assert 'inferplane_connections_refused_total{engine="0",model="tiny",reason=' in text


def test_expect_100_continue_is_answered_before_the_body(guarded):
    settled(guarded)
    body = b'{"prompt": "a", "max_tokens": 1}'
    head = b"POST /v1/completions HTTP/1.1\r\n" + HOST + b"expect: 100-continue\r\n"
    head += b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    with guarded.connect() as link:
        link.sendall(head)
        assert link.recv(25).startswith(b"HTTP/1.1 100")
        link.sendall(body)
        assert answer(link)[0] == 200
