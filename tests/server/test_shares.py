"""One key does not take what the others need."""

import hashlib
import heapq
import random
from collections import deque

import pytest

from inferplane.api_keys import ApiKey, read_key_file
from inferplane.errors import ConfigError
from inferplane.server.errors import ApiError
from inferplane.server.shares import Lease, Shares

BODY = {"prompt": "a", "max_tokens": 400, "ignore_eos": True, "stream": True}

LANES, SERVICE_S, ASKING_S = 16, 0.8, 120.0


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def key(name: str, **limits: int) -> ApiKey:
    return ApiKey(name, hashlib.sha256(name.encode()).digest(), ("infer",), **limits)


def shares(**more) -> tuple[Shares, Clock]:
    clock = Clock()
    return Shares(**({"running": 4, "waiting": 8, "clock": clock} | more)), clock


def test_a_minutes_requests_refill_steadily_and_the_refusal_says_when():
    held, clock = shares()
    limited = key("a", requests_per_minute=60)
    for _ in range(60):
        held.begin(limited).release()
    with pytest.raises(ApiError) as refused:
        held.begin(limited)
    assert refused.value.code == "rate_limited"
    assert refused.value.retry_after_s == pytest.approx(1.0)
    clock.now += 1.0
    held.begin(limited).release()
    with pytest.raises(ApiError):
        held.begin(limited)
    held.begin(key("b", requests_per_minute=60)).release()


def test_a_clock_that_jumps_back_gives_and_takes_nothing():
    held, clock = shares()
    limited = key("a", requests_per_minute=1)
    held.begin(limited).release()
    clock.now -= 1000.0
    with pytest.raises(ApiError):
        held.begin(limited)


def test_requests_at_once_are_bounded_and_released_once():
    held, _ = shares()
    limited = key("a", concurrent=2)
    first, second = held.begin(limited), held.begin(limited)
    with pytest.raises(ApiError) as refused:
        held.begin(limited)
    assert refused.value.code == "concurrency_limited"
    first.release()
    first.release()
    held.begin(limited)
    with pytest.raises(ApiError):
        held.begin(limited)
    second.release()


def test_retry_after_is_the_time_until_one_of_its_requests_should_end():
    held, clock = shares()
    limited = key("a", concurrent=4)
    for _ in range(40):
        lease = held.begin(limited)
        clock.now += 8.0
        lease.release()
    for _ in range(4):
        held.begin(limited)
    with pytest.raises(ApiError) as refused:
        held.begin(limited)
    assert refused.value.retry_after_s == pytest.approx(8.0 / 4, rel=0.01)


def test_a_lone_key_has_the_whole_queue():
    held, _ = shares(num_keys=1)
    for _ in range(4 + 8):
        held.begin(key("a"))


def test_with_several_keys_one_gets_what_runs_and_its_part_of_the_queue():
    held, _ = shares(num_keys=4)
    for _ in range(4 + 8 // 4):
        held.begin(key("greedy"))
    with pytest.raises(ApiError) as refused:
        held.begin(key("greedy"))
    assert refused.value.code == "concurrency_limited"
    held.begin(key("modest"))


def test_beside_others_a_key_gets_what_they_leave_of_what_runs():
    held, _ = shares(running=8, num_keys=4)
    others = [held.begin(key(name)) for name in "abc"]
    for _ in range(8 - len(others)):
        held.begin(key("greedy"))
    with pytest.raises(ApiError) as refused:
        held.begin(key("greedy"))
    assert refused.value.code == "concurrency_limited"
    for name in "abc":
        held.begin(key(name))
    for lease in others:
        lease.release()


def test_keys_that_all_want_everything_get_the_same():
    held, _ = shares(running=12, waiting=4, num_keys=4)
    had = dict.fromkeys("abcd", 0)
    for _ in range(20):
        for name in had:
            try:
                held.begin(key(name))
            except ApiError:
                continue
            had[name] += 1
    assert had == dict.fromkeys("abcd", 12 // 4)


def waits_of_modest_keys(held: Shares, clock: Clock, rng: random.Random, greedy_rate: float):
    """Seconds from asking to answer, sorted, of nine keys that each ask a twentieth of what LANES
    can do, which serve one queue in order; and how many of theirs were refused."""
    rates = [greedy_rate, *(LANES / SERVICE_S / 20 for _ in range(9))]
    events = [(rng.expovariate(rate), 1, name) for name, rate in enumerate(rates) if rate]
    heapq.heapify(events)
    queue: deque[tuple[float, int, Lease]] = deque()
    idle, took, refused = LANES, [], 0
    while events:
        clock.now, kind, what = heapq.heappop(events)
        if kind == 0:
            began, name, lease = what
            lease.release()
            idle += 1
            if name:
                took.append(clock.now - began)
        elif clock.now < ASKING_S:
            heapq.heappush(events, (clock.now + rng.expovariate(rates[what]), 1, what))
            try:
                queue.append((clock.now, what, held.begin(key(f"k{what}"))))
            except ApiError:
                refused += what > 0
        while idle and queue:
            idle -= 1
            heapq.heappush(events, (clock.now + SERVICE_S, 0, queue.popleft()))
    return sorted(took), refused


@pytest.mark.case("fairness")
@pytest.mark.parametrize("seed", range(4))
def test_a_greedy_key_at_most_doubles_the_waiting_of_nine_others(seed):
    p99 = {}
    for greedy_rate in (0.0, 20 * LANES / SERVICE_S):
        held, clock = shares(running=LANES, waiting=64, num_keys=10)
        took, refused = waits_of_modest_keys(held, clock, random.Random(seed), greedy_rate)
        p99[greedy_rate] = took[int(len(took) * 0.99)]
        assert refused <= len(took) / 100
    alone, crowded = p99.values()
    assert crowded <= 2 * alone


def test_sequences_count_not_requests():
    held, _ = shares(num_keys=4)
    held.begin(key("a")).charge(5)
    small = held.begin(key("a"))
    with pytest.raises(ApiError):
        held.begin(key("a"))
    with pytest.raises(ApiError):
        small.charge(2)
    small.charge(1)
    small.release()
    held.begin(key("a"))


def test_a_request_larger_than_the_share_is_served_alone():
    held, _ = shares(num_keys=4)
    huge = held.begin(key("a"))
    huge.charge(100)
    with pytest.raises(ApiError):
        held.begin(key("a"))
    huge.release()
    held.begin(key("a")).charge(2)


def test_with_as_many_requests_as_there_is_room_for_all_others_are_refused():
    held, _ = shares(queue_wait_s=lambda: 7.0)
    leases = [held.begin(None) for _ in range(4 + 8)]
    for asked in (None, key("a")):
        with pytest.raises(ApiError) as refused:
            held.begin(asked)
        assert (refused.value.code, refused.value.retry_after_s) == ("queue_full", 7.0)
    leases[0].release()
    leases[0].release()
    held.begin(key("a"))
    with pytest.raises(ApiError):
        held.begin(None)


def test_accounts_of_keys_that_are_gone_are_forgotten():
    held, _ = shares(num_keys=2)
    for number in range(100):
        held.begin(key(f"{number}")).release()
    assert len(held._accounts) <= 4


@pytest.mark.case("fairness")
def test_the_server_keeps_a_key_to_its_limit_and_serves_the_others(start):
    server = start(api_keys=(key("one", concurrent=1), key("other")), options={"step_ms": "5"})
    server.wait_ready("other")
    with server.client("one") as one, server.client("other") as other:
        with (
            one.stream("POST", "/v1/completions", json=BODY) as first,
            server.client("one") as same,
        ):
            chunks = first.iter_raw()
            next(chunks)
            refused = same.post("/v1/completions", json=BODY)
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "concurrency_limited"
            assert 1 <= int(refused.headers["retry-after"]) <= 120
            assert same.get("/v1/models").status_code == 200
            good = other.post("/v1/completions", json={"prompt": "a", "max_tokens": 2})
            assert good.status_code == 200
        again = other.post("/v1/completions", json={"prompt": "a", "max_tokens": 2})
        assert again.status_code == 200
        short = {"prompt": "a", "max_tokens": 2}
        while one.post("/v1/completions", json=short).status_code == 429:
            pass  # the server notices that the first has left


def test_many_samples_of_one_request_are_charged(start):
    keys = tuple(key(f"key{n}") for n in range(8))
    server = start(api_keys=keys, config={"max_num_seqs": 4}, options={"step_ms": "5"})
    server.wait_ready("key1")
    body, short = BODY | {"n": 5}, {"prompt": "a", "max_tokens": 2}
    with (
        server.client("key0") as client,
        server.client("key0") as same,
        server.client("key1") as other,
        client.stream("POST", "/v1/completions", json=body) as first,
    ):
        chunks = first.iter_raw()
        next(chunks)
        refused = same.post("/v1/completions", json=body)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "concurrency_limited"
        assert other.post("/v1/completions", json=short).status_code == 200


DIGEST = hashlib.sha256(b"x").hexdigest()


def test_limits_stand_in_the_key_file(tmp_path):
    file = tmp_path / "keys"
    file.write_text(
        f"one {DIGEST} infer requests_per_minute=60 concurrent=2\n"
        f"two {DIGEST} concurrent=3  # with the usual scopes\n"
        f"three {DIGEST}\n"
    )
    one, two, three = read_key_file(file)
    assert (one.scopes, one.requests_per_minute, one.concurrent) == (("infer",), 60, 2)
    assert (two.scopes, two.requests_per_minute, two.concurrent) == (("infer", "metrics"), 0, 3)
    assert (three.requests_per_minute, three.concurrent) == (0, 0)


@pytest.mark.parametrize(
    "line",
    [
        "one",
        "one abc",
        f"one {DIGEST} infer more words",
        f"one {DIGEST} everything",
        f"one {DIGEST} infer concurrent=0",
        f"one {DIGEST} infer concurrent=-1",
        f"one {DIGEST} infer concurrent=many",
        f"one {DIGEST} infer unknown=1",
        f"one {DIGEST}\none {DIGEST}",
    ],
)
def test_a_line_that_is_no_key_is_refused_with_its_number(tmp_path, line):
    file = tmp_path / "keys"
    file.write_text(line + "\n")
    with pytest.raises(ConfigError, match=r"line \d"):
        read_key_file(file)


def test_a_key_file_that_is_no_text_is_refused(tmp_path):
    file = tmp_path / "keys"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_key_file(file)
