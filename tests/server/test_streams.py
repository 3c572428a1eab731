"""Clients that leave, engines that fail, silences: a stream ends once and harms nobody."""

import json
import socket
import struct
import threading

import pytest

from inferplane.server.limits import Limits

TEXT = "/v1/completions"
CRASH, NAN = 222, 223


@pytest.fixture(scope="module")
def slow(start):
    """Steps take 30 ms, and some tokens make the device fail."""
    options = {"step_ms": "30", "nan_token": str(NAN)}
    server = start(Limits(ping_s=0.01), options=options)
    server.wait_ready()
    return server


def settle(server):
    """Wait until no request is left, then return the stats."""
    while True:
        stats = server.stats()
        if stats.running == stats.waiting == server.context.lifecycle.running == 0:
            return stats


def request_bytes(body, path=TEXT):
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    return head.encode() + f"content-length: {len(data)}\r\n\r\n".encode() + data


def leave(link, how):
    if how == "reset":
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "half-close":
        link.shutdown(socket.SHUT_WR)
        link.recv(1 << 20)
    link.close()


@pytest.mark.case("nonstream-disconnect")
@pytest.mark.case("zombie-stream")
@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("n", [1, 3])
def test_a_client_that_leaves_frees_its_blocks(slow, how, streamed, n):
    before = settle(slow)
    body = {"prompt": "long", "max_tokens": 400, "ignore_eos": True, "stream": streamed, "n": n}
    link = slow.connect()
    link.sendall(request_bytes(body))
    if streamed:
        assert b"200 OK" in link.recv(200)
    else:
        while slow.context.lifecycle.running == 0 or slow.stats().running == 0:
            pass
    leave(link, how)
    after = settle(slow)
    assert after.blocks_free == before.blocks_free
    assert after.generation_tokens - before.generation_tokens < 400


def test_a_request_that_waits_in_the_queue_is_ended_when_its_client_leaves(start):
    server = start(options={"step_ms": "30"}, config={"max_num_seqs": 1})
    server.wait_ready()
    body = {"prompt": "first", "max_tokens": 300, "ignore_eos": True, "stream": True}
    first = server.connect()
    first.sendall(request_bytes(body))
    assert b"200 OK" in first.recv(200)
    second = server.connect()
    second.sendall(request_bytes(body))
    while server.stats().waiting == 0:
        pass
    leave(second, "reset")
    while server.stats().waiting:
        pass
    assert server.stats().running == 1
    leave(first, "reset")
    settle(server)


def test_a_body_that_never_comes_whole_leaves_nothing(slow):
    link = slow.connect()
    link.sendall(request_bytes({"prompt": "half"})[:-5])
    leave(link, "reset")
    settle(slow)


def test_cuts_at_every_byte_of_the_request_leave_nothing(slow):
    before = settle(slow)
    data = request_bytes({"prompt": "cut", "max_tokens": 50, "ignore_eos": True, "stream": True})
    for size in range(0, len(data) + 1, 7):
        link = slow.connect()
        link.sendall(data[:size])
        leave(link, "reset")
    assert settle(slow).blocks_free == before.blocks_free


def test_silence_is_filled_with_comments(slow):
    body = {"prompt": [77] * 400, "max_tokens": 2, "stream": True, "temperature": 0}
    with slow.client() as client, client.stream("POST", TEXT, json=body) as response:
        text = response.read().decode()
    assert text.startswith(": ping\n\n")  # two steps of 30 ms pass before anything is made
    assert text.endswith("data: [DONE]\n\n")


def test_a_failure_in_a_stream_is_one_error_frame_then_the_end(slow):
    settle(slow)
    body = {"prompt": "x", "max_tokens": 3, "logit_bias": {str(NAN): 100}, "stream": True}
    with slow.client() as client, client.stream("POST", TEXT, json=body) as response:
        assert response.status_code == 200
        events = [e for e in response.read().decode().split("\n\n") if not e.startswith(":")]
    assert events[-2:] == ["data: [DONE]", ""]
    frames = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert frames[-1]["error"]["code"] == "model_numerical_error"
    assert frames[-1]["error"]["request_id"] == response.headers["x-request-id"]
    assert not any("error" in frame for frame in frames[:-1])
    assert all(c["finish_reason"] is None for frame in frames[:-1] for c in frame["choices"])


def test_a_failure_without_a_stream_is_a_status(slow):
    body = {"prompt": ["x", "y"], "max_tokens": 3, "logit_bias": {str(NAN): 100}}
    with slow.client() as client:
        response = client.post(TEXT, json=body)
    assert response.status_code == 500
    error = response.json()["error"]
    assert error["code"] == "model_numerical_error" and error["type"] == "server_error"
    assert response.headers["x-should-retry"] == "false"
    settle(slow)


def test_a_refused_stream_has_a_status_and_no_frames(slow):
    with slow.client() as client:
        response = client.post(TEXT, json={"prompt": [5] * 600, "stream": True})
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"


@pytest.mark.case("unbounded-queue")
def test_a_full_queue_answers_429_at_once(start):
    from inferplane.launch import SchedulerConfig

    server = start(
        options={"step_ms": "20"},
        config={"max_num_seqs": 1},
        scheduler=SchedulerConfig(max_waiting=2),
    )
    server.wait_ready()
    body = {"prompt": "busy", "max_tokens": 200, "ignore_eos": True, "stream": True}
    links = [server.connect() for _ in range(3)]
    for link in links:
        link.sendall(request_bytes(body))
        assert b"200 OK" in link.recv(200)
    with server.client() as client:
        response = client.post(TEXT, json=body)
        assert response.status_code == 429
        assert response.json()["error"]["code"] == "queue_full"
        assert int(response.headers["retry-after"]) >= 1
        assert response.headers["x-should-retry"] == "true"
        assert client.get("/livez").status_code == 200
    for link in links:
        leave(link, "reset")
    settle(server)


def test_many_streams_at_once_all_finish_and_free_their_blocks(live):
    before = settle(live)
    results = []

    def run(number):
        body = {"prompt": f"stream {number}", "max_tokens": 20, "stream": True, "ignore_eos": True}
        with live.client() as client, client.stream("POST", TEXT, json=body) as response:
            results.append(response.read().decode())

    threads = [threading.Thread(target=run, args=(i,)) for i in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 32
    assert all(text.endswith("data: [DONE]\n\n") and '"length"' in text for text in results)
    assert settle(live).blocks_free == before.blocks_free


@pytest.mark.case("never-reading-client")
def test_a_client_that_never_reads_is_cut_off(start):
    server = start(Limits(write_stall_s=0.3), config={"max_model_len": 4096})
    server.wait_ready()
    before = settle(server)
    link = socket.socket()
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    link.connect(("127.0.0.1", server.port))
    body = {
        "prompt": "a",
        "max_tokens": 1800,
        "ignore_eos": True,
        "stream": True,
        "logprobs": 20,
        "n": 8,
    }
    link.sendall(request_bytes(body))
    assert link.recv(15) == b"HTTP/1.1 200 OK", link.recv(500)
    after = settle(server)
    link.close()
    assert after.blocks_free == before.blocks_free
    with server.client() as client:
        assert 'reason="write_stall"' in client.get("/metrics").text


def test_a_deadline_in_a_header_shortens_the_request(slow):
    body = {"prompt": "late", "max_tokens": 400, "ignore_eos": True}
    with slow.client() as client:
        response = client.post(TEXT, json=body, headers={"x-inferplane-deadline-ms": "200"})
        assert response.status_code == 504
        assert response.json()["error"]["code"] == "deadline_exceeded"
        bad = client.post(TEXT, json=body, headers={"x-inferplane-deadline-ms": "soon"})
        assert bad.json()["error"]["param"] == "x-inferplane-deadline-ms"
    settle(slow)
