"""Nobody gets in who does not belong: every route, every carrier, every trick."""

import hashlib
import socket

import pytest
from starlette.datastructures import Headers

from inferplane.api_keys import ApiKey
from inferplane.server.auth import Caller, KeyRing, cache_domain
from inferplane.server.errors import ApiError
from inferplane.server.key_file import KeyFile
from inferplane.server.probe_states import PROBES
from inferplane.server.routing import GatedRouter


def key(name: str, *scopes: str) -> ApiKey:
    """A key whose text is its name."""
    return ApiKey(name, hashlib.sha256(name.encode()).digest(), scopes)


MASTER = key("master", "infer", "metrics", "admin")
INFER = key("worker", "infer")
SCRAPER = key("scraper", "metrics")


@pytest.fixture(scope="module")
def locked(start):
    server = start(api_keys=(MASTER, INFER, SCRAPER), root_path="/gateway")
    server.wait_ready("master")
    return server


def routes_of(server):
    return [(r.path, sorted(r.methods), r.scope) for r in server.server.app.gate.routes]


def concrete(path):
    return path.replace("{id:path}", "tiny")


def raw(server, data):
    """Status line of the answer to raw bytes."""
    with server.connect() as link:
        link.sendall(data)
        link.shutdown(socket.SHUT_WR)
        return link.makefile("rb").read().partition(b"\r\n")[0]


@pytest.mark.case("auth-matrix")
@pytest.mark.case("unguarded-route")
def test_without_a_good_key_only_the_probes_answer(locked):
    wrong = [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer"},
        {"authorization": "Basic bWFzdGVyOg=="},
        {"authorization": "master"},
        {"x-api-key": "wrong"},
        {"authorization": "Bearer wrong", "x-api-key": "master"},
        {"cookie": "key=master"},
        {"authorization": b"Bearer \xe9\xff"},
    ]
    with locked.client() as client:
        for path, methods, scope in routes_of(locked):
            for method in methods:
                for headers in wrong:
                    response = client.request(method, concrete(path), headers=headers, content=b"")
                    if scope == "open":
                        assert response.status_code in (200, 503), (method, path)
                        continue
                    assert response.status_code == 401, (method, path, headers)
                    assert response.headers["www-authenticate"] == "Bearer"
                    if method != "HEAD":
                        said = response.json()
                        code = said.get("code") or said["error"]["code"]
                        assert code in ("missing_api_key", "invalid_api_key")


def test_the_open_list_is_the_four_probes(locked):
    assert {path for path, _, scope in routes_of(locked) if scope == "open"} == set(PROBES)


@pytest.mark.parametrize(
    "path",
    [
        "//v1/models",
        "/health/../v1/models",
        "/livez/%2e%2e/v1/models",
        "/v1%2fmodels",
        "/v1/./models",
        "/v1/models%00",
        "/livez\\..\\v1",
        "/LIVEZ/../v1/models",
        "/gateway//v1/models",
    ],
)
def test_odd_paths_open_nothing(locked, path):
    line = raw(locked, f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode("latin-1"))
    assert b" 400 " in line or b" 401 " in line


@pytest.mark.case("host-path-confusion")
@pytest.mark.parametrize("host", ["a/health?", "x/?", "127.0.0.1/livez", "a b", "", "a@b", "a#b"])
def test_a_host_that_is_no_name_is_refused(locked, host):
    line = raw(locked, f"GET /v1/models HTTP/1.1\r\nhost: {host}\r\n\r\n".encode("latin-1"))
    assert b" 400 " in line


def test_a_missing_or_second_host_is_refused(locked):
    assert b" 400 " in raw(locked, b"GET /v1/models HTTP/1.1\r\n\r\n")
    twice = b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\nhost: x\r\n\r\n"
    assert b" 400 " in raw(locked, twice)


def test_an_absolute_target_is_refused(locked):
    line = raw(locked, b"GET http://other/livez HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
    assert b" 400 " in line


def test_unknown_paths_want_a_key_before_they_say_so(locked):
    with locked.client() as client:
        assert client.get("/nothing").status_code == 401
    with locked.client("worker") as client:
        assert client.get("/nothing").status_code == 404


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
def test_both_carriers_open(locked, header):
    value = "Bearer worker" if header == "authorization" else "worker"
    with locked.client() as client:
        assert client.get("/v1/models", headers={header: value}).status_code == 200


@pytest.mark.case("other-methods")
def test_each_route_takes_the_methods_it_declares_and_no_others(locked):
    everything = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"}
    declared: dict[str, set[str]] = {}
    for path, methods, _ in routes_of(locked):
        declared.setdefault(concrete(path), set()).update(methods)
    with locked.client("master") as client:
        for path, methods in declared.items():
            for method in sorted(everything - methods - {"HEAD"}):
                answer = client.request(method, path)
                assert answer.status_code in (404, 405), (method, path)
                if answer.status_code == 404:  # of a route for all paths of a dialect
                    assert answer.json()["error"], (method, path)
                    continue
                allowed = set(answer.headers["allow"].replace(" ", "").split(","))
                assert method not in allowed and "TRACE" not in allowed


@pytest.mark.case("admin-exposed")
def test_a_key_opens_its_scopes_alone(locked):
    with locked.client("worker") as client:
        refused = client.get("/metrics")
        assert refused.status_code == 403
        assert refused.json()["error"]["code"] == "insufficient_scope"
        assert "metrics" in refused.json()["error"]["message"]
    with locked.client("scraper") as client:
        assert client.get("/metrics").status_code == 200
        assert client.get("/v1/models").status_code == 403


def test_the_prefix_of_a_proxy_changes_nothing(locked):
    with locked.client() as client:
        assert client.get("/gateway/v1/models").status_code == 401
        assert client.get("/gateway/livez").status_code == 200
    with locked.client("worker") as client:
        assert client.get("/gateway/v1/models").status_code == 200
        assert client.get("/v1/models").status_code == 200


def test_probes_tell_details_to_key_holders_only(locked):
    with locked.client() as client:
        assert "detail" not in client.get("/readyz").json()
    with locked.client("worker") as client:
        assert client.get("/readyz").json()["detail"]["device"] == "null"


def test_websockets_are_refused(locked):
    request = (
        b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: upgrade\r\n"
        b"upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: eA==\r\n\r\n"
    )
    assert b" 401 " in raw(locked, request)


def test_failures_are_counted(locked):
    with locked.client("master") as client:
        text = client.get("/metrics").text
    line = next(x for x in text.splitlines() if x.startswith("inferplane_auth_failures_total"))
    assert float(line.split()[-1]) > 0


def test_without_keys_any_key_is_ignored(http):
    assert http.get("/v1/models", headers={"authorization": "Bearer none"}).status_code == 200
    assert http.get("/v1/models", headers={"authorization": "Bearer"}).status_code == 200


@pytest.mark.case("rebinding-csrf")
@pytest.mark.parametrize("host", ["evil.test", "127.0.0.1.evil.test", "0.0.0.0", "192.168.0.1"])
def test_without_keys_only_loopback_names_are_answered(live, host):
    head = f"GET /v1/models HTTP/1.1\r\nhost: {host}:{live.port}\r\nconnection: close\r\n\r\n"
    assert b" 403 " in raw(live, head.encode())


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST"])
def test_loopback_names_are_answered(live, host):
    head = f"GET /v1/models HTTP/1.1\r\nhost: {host}:{live.port}\r\nconnection: close\r\n\r\n"
    assert b" 200 " in raw(live, head.encode())


@pytest.mark.case("rebinding-csrf")
def test_pages_of_other_origins_may_not_change_anything(http):
    body = {"prompt": "a", "max_tokens": 1}
    refused = http.post("/v1/completions", json=body, headers={"origin": "https://evil.test"})
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "origin_not_allowed"
    preflight = http.options(
        "/v1/completions",
        headers={"origin": "https://evil.test", "access-control-request-method": "POST"},
    )
    assert preflight.status_code == 403
    assert "access-control-allow-origin" not in preflight.headers


def test_listed_origins_may_call_and_their_preflight_needs_no_key(start):
    server = start(api_keys=(MASTER,), allowed_origins=("http://localhost:*", "https://ui.test"))
    asked = {"access-control-request-method": "POST"}
    with server.client() as client:
        for origin, good in (
            ("https://ui.test", True),
            ("http://localhost:5173", True),
            ("http://localhost:5173.evil.test", False),
            ("https://ui.test.evil", False),
        ):
            response = client.options("/v1/completions", headers={"origin": origin, **asked})
            assert (response.status_code == 204) is good, origin
            told = response.headers.get("access-control-allow-origin")
            assert told == (origin if good else None)
        refused = client.get("/v1/models", headers={"origin": "https://ui.test"})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://ui.test"


@pytest.mark.case("key-timing")
def test_keys_are_compared_without_leaving_early():
    ring = KeyRing((INFER, MASTER, INFER))
    seen = []

    class Watched(tuple):
        def __iter__(self):
            for one in super().__iter__():
                seen.append(one.name)
                yield one

    ring.keys = Watched(ring.keys)
    assert ring.caller(Headers({"x-api-key": "worker"}), "infer").name == "worker"
    assert seen == ["worker", "master", "worker"]


def test_keys_can_be_replaced_but_not_taken_away():
    ring = KeyRing((INFER,))
    ring.replace((MASTER,))
    with pytest.raises(ApiError):
        ring.caller(Headers({"x-api-key": "worker"}), "infer")
    with pytest.raises(ValueError, match="without"):
        ring.replace(())


@pytest.mark.case("chosen-salt")
def test_a_salt_divides_only_its_own_keys_domain():
    one, two = Caller("one", frozenset()), Caller("two", frozenset())
    domains = [
        cache_domain(b"secret", one, None),
        cache_domain(b"secret", one, ""),
        cache_domain(b"secret", one, "salt"),
        cache_domain(b"secret", two, None),
        cache_domain(b"secret", two, "salt"),
        cache_domain(b"other", one, None),
    ]
    assert domains[0] == domains[1]
    assert len(set(domains)) == 5


def test_a_route_without_a_scope_does_not_load():
    from starlette.routing import Route

    with pytest.raises(TypeError, match="declares no scope"):
        GatedRouter([Route("/x", lambda request: None)], KeyRing(()))


def test_a_changed_key_file_is_taken_in_and_a_broken_one_is_not(settings_for, tmp_path):
    import logging
    import os

    def line(name):
        return f"{name} {hashlib.sha256(name.encode()).hexdigest()} infer\n"

    path = tmp_path / "keys"
    path.write_text(line("old"))
    settings = settings_for(api_keys=(MASTER, key("old", "infer")), api_key_file=path)
    ring = KeyRing(settings.api_keys)
    file = KeyFile(settings, ring, logging.getLogger("test"))

    def names(number, text):
        path.write_text(text)
        os.utime(path, ns=(number, number))
        file.look()
        return {one.name for one in ring.keys}

    assert names(1, line("new")) == {"master", "new"}
    assert names(2, "no key at all") == {"master", "new"}
    assert names(3, line("new") + line("more")) == {"master", "new", "more"}
