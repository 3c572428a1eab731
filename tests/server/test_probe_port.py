"""Probes on a thread and port of their own: answered while the server's loop is not."""

import json
import socket
import threading
import time
from dataclasses import replace

import pytest

from inferplane.errors import AddressError
from inferplane.server.banner import Banner
from inferplane.server.probe_port import ProbePort
from inferplane.server.run import make_server, open_socket


def ask(port: int, path: str, method: str = "GET", more: bytes = b"") -> tuple[int, dict]:
    with socket.create_connection(("127.0.0.1", port), timeout=60.0) as wire:
        wire.sendall(f"{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode() + more)
        data = b""
        while part := wire.recv(65536):
            data += part
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body) if body else {}


@pytest.fixture(scope="module")
def probed(start):
    server = start(probe_port=0)
    server.wait_ready()
    return server, server.server.probe_port.port


def test_the_probe_port_says_what_the_server_says(probed):
    server, port = probed
    with server.client() as client:
        for path in ("/livez", "/startupz", "/readyz", "/health"):
            there = client.get(path)
            status, body = ask(port, path)
            assert (status, body["status"]) == (there.status_code, there.json()["status"])
            assert body["phase"] == "ready" and "detail" not in body


def test_nothing_but_probes_is_there(probed):
    _, port = probed
    assert ask(port, "/v1/models")[0] == 404
    assert ask(port, "/livez", "POST")[0] == 400
    assert ask(port, "/livez?a=b")[0] == 200
    assert ask(port, "/livez", "HEAD") == (200, {})
    assert ask(port, "/" + "a" * 9000)[0] in (404, 431)


def test_probes_are_answered_while_the_servers_loop_hangs(probed):
    server, port = probed
    hung, go_on = threading.Event(), threading.Event()

    def hang():
        hung.set()
        go_on.wait(60.0)

    server.loop.call_soon_threadsafe(hang)
    assert hung.wait(60.0)
    try:
        assert ask(port, "/readyz")[0] == 200
    finally:
        go_on.set()


def test_a_server_whose_loop_does_not_turn_is_dead(probed):
    server, _ = probed
    now = [time.monotonic()]
    listener = open_socket(server.context.settings)
    other = ProbePort(server.context, listener, silent_s=30.0, clock=lambda: now[0])
    other.start()
    try:
        assert ask(other.port, "/livez")[0] == 200
        now[0] += 31.0
        status, body = ask(other.port, "/livez")
        assert status == 503 and "has not turned for 31 s" in body["status"]
        other.beat()
        assert ask(other.port, "/livez")[0] == 200
    finally:
        other.close()


def test_half_a_request_does_not_keep_others_from_their_answer(probed):
    _, port = probed
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    try:
        for wire in silent:
            wire.sendall(b"GET /live")
        assert ask(port, "/livez")[0] == 200
    finally:
        for wire in silent:
            wire.close()


def test_a_taken_probe_port_is_an_error_that_names_it(probed):
    server, port = probed
    taken = replace(server.context.settings, probe_port=port)
    with pytest.raises(AddressError, match=f"probes on 127.0.0.1:{port}"):
        make_server(taken, Banner(taken))
