"""Raw bytes at the port: odd framing, pipelining, damaged heads, TLS and HTTP/2 for HTTP/1.

Cases follow RFC 9112 (sections 2.2, 5, 6 and 7.1) and the ways request smuggling is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import pytest

BODY = json.dumps({"prompt": "abc", "max_tokens": 2, "temperature": 0}).encode()
SECOND = b"GET /smuggled HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
LENGTHS = (b"+5", b"-1", b"0x5", b"5 5", b"5, 6", b"", b"\xef\xbc\x95", b"1" * 21, b"5\x00")
CODINGS = (b"xchunked", b"chunked, identity", b"chunked\x0b", b"identity", b"\x00chunked", b"gzip")
SIZES = (b"g", b"-1", b"0x5", b"f" * 17, b"5 5", b"", b"\x00", b"+5")
FIELDS = (
    b"no colon at all",
    b": no name",
    b"name with space: 1",
    b"name : space before the colon",
    b" folded: into the one before",
    b"nul: \x00",
    b"bare: a\rb",
    b"host: twice",
    b"\xff\xfe: not ascii",
    b"expect: 200-maybe",
    b"x: " + b"y" * 40_000,
    b"\r\n".join(b"f%d: 1" % number for number in range(150)),
)
FIRST_LINES = (
    b"GET /livez",
    b"GET  /livez  HTTP/1.1",
    b"get /livez HTTP/1.1",
    b"GET http://127.0.0.1/livez HTTP/1.1",
    b"GET * HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"CONNECT 127.0.0.1:1 HTTP/1.1",
    b"TRACE / HTTP/1.1",
    b"GET /livez HTTP/2.0",
    b"GET /livez HTTP/1.1 HTTP/1.1",
    b"GET /\x00 HTTP/1.1",
    b"GET /%00%ff%2e%2e/ HTTP/1.1",
    b"GET /../../etc/passwd HTTP/1.1",
    b"GET //livez HTTP/1.1",
    b"GET /livez#part HTTP/1.1",
    b"GET /" + b"a" * 9000 + b" HTTP/1.1",
    b"PRI * HTTP/2.0\r\n\r\nSM",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(64)),
    b"\r\n\r\n\r\nGET /livez HTTP/1.1",
)


@dataclass(frozen=True, slots=True)
class Case:
    """What is sent, and how many answers it may get at the most."""

    kind: str
    data: bytes
    most: int
    ends: bool = False
    """The server must answer and close by itself."""


def post(fields: bytes, rest: bytes) -> bytes:
    head = b"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    return head + fields + b"\r\n" + rest


def chunked(rng: Random) -> bytes:
    cut = rng.randrange(1, len(BODY))
    parts = [b"%x;a=b\r\n%s\r\n" % (len(part), part) for part in (BODY[:cut], BODY[cut:])]
    return b"".join(parts) + b"0\r\n" + rng.choice((b"", b"trailer: 1\r\n")) + b"\r\n"


def good(rng: Random) -> Case:
    if rng.random() < 0.5:
        data = post(b"connection: close\r\ncontent-length: %d\r\n" % len(BODY), BODY)
    else:
        data = post(b"connection: close\r\ntransfer-encoding: chunked\r\n", chunked(rng))
    return Case("good", data, 1, ends=True)


def pipelined(rng: Random) -> Case:
    first = post(b"content-length: %d\r\n" % len(BODY), BODY)
    return Case("pipelined", first * rng.randint(1, 3) + SECOND, 4, ends=True)


def other_length(rng: Random) -> Case:
    short = rng.random() < 0.5
    told = rng.randrange(len(BODY)) if short else len(BODY) + rng.randint(1, 1000)
    return Case("other length", post(b"content-length: %d\r\n" % told, BODY), 2 if short else 1)


def two_lengths(rng: Random) -> Case:
    lengths = [len(BODY), rng.choice((0, 1, len(BODY) + len(SECOND)))]
    rng.shuffle(lengths)
    fields = b"".join(b"content-length: %d\r\n" % length for length in lengths)
    return Case("two lengths", post(fields, BODY + SECOND), 1)


def no_length(rng: Random) -> Case:
    return Case("no length", post(b"content-length: %s\r\n" % rng.choice(LENGTHS), SECOND), 1)


def both_framings(rng: Random) -> Case:
    fields = [b"content-length: %d\r\n" % len(BODY), b"transfer-encoding: chunked\r\n"]
    rng.shuffle(fields)
    return Case("both framings", post(b"".join(fields), b"0\r\n\r\n" + SECOND), 1)


def other_coding(rng: Random) -> Case:
    name = rng.choice((b"transfer-encoding: ", b"Transfer-Encoding : ", b"transfer-encoding:\r\n "))
    coding = rng.choice(CODINGS)
    return Case("other coding", post(name + coding + b"\r\n", b"0\r\n\r\n" + SECOND), 1)


def bad_chunk(rng: Random) -> Case:
    rest = rng.choice(SIZES) + b"\r\n" + BODY + b"\r\n0\r\n\r\n" + SECOND
    return Case("bad chunk", post(b"transfer-encoding: chunked\r\n", rest), 1)


def odd_field(rng: Random) -> Case:
    fields = rng.choice(FIELDS) + b"\r\ncontent-length: %d\r\n" % len(BODY)
    return Case("odd field", post(fields, BODY), 1)


def odd_line(rng: Random) -> Case:
    line = rng.choice(FIRST_LINES)
    return Case("odd line", line + b"\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n", 2)


def upgrade(rng: Random) -> Case:
    fields = rng.choice(
        (
            b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
            b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
            b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n",
            b"expect: 100-continue\r\n",
        )
    )
    return Case("upgrade", post(fields + b"content-length: %d\r\n" % len(BODY), BODY), 2)


def damaged(rng: Random) -> Case:
    data = bytearray(rng.choice((good, pipelined, both_framings, odd_field))(rng).data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                data[place] ^= 1 << rng.randrange(8)
            case 1:
                del data[place : place + rng.randint(1, 8)]
            case 2:
                data[place:place] = rng.randbytes(rng.randint(1, 8))
            case _:
                data[place:place] = data[place : place + rng.randint(1, 60)]
        data = data or bytearray(b"\r\n")
    return Case("damaged", bytes(data), 9)


GRAMMAR: tuple[Callable[[Random], Case], ...] = (
    good, pipelined, other_length, two_lengths, no_length, both_framings, other_coding, bad_chunk,
    odd_field, odd_line, upgrade, damaged, damaged, damaged,
)  # fmt: skip


@pytest.mark.case("wire-framing")
def test_wire_fuzz(serve, wire, rng, record, full, until) -> None:
    server = serve("--max-num-seqs", "32", "--max-waiting", "1000", check="0")
    asyncio.run(fuzz(server, wire, rng, 100_000 if full else 1500, record, full, until))


async def fuzz(server, wire, rng: Random, count: int, record, full: bool, until) -> None:
    golden = {"prompt": "abc", "max_tokens": 8, "temperature": 0}
    _, _, before = await server.ask("POST", "/v1/completions", golden)
    seen: Counter[int] = Counter()
    wrong: list[str] = []
    numbers = iter(range(count))
    held: list[float] = []

    async def client() -> None:
        for number in numbers:
            if number == count // 5:  # pools and caches are full
                held.append(memory_mib(server))
            case = rng.choice(GRAMMAR)(rng)
            statuses = await send(server, wire, rng, case)
            seen.update(statuses)
            if fault := fault_of(case, statuses):
                wrong.append(f"{case.kind}: {fault}: {case.data[:400]!r}")

    await asyncio.gather(*(client() for _ in range(32)))
    _, _, after = await server.ask("POST", "/v1/completions", golden)
    await until(server.idle)
    held.append(memory_mib(server))
    record(
        connections=count,
        statuses=dict(sorted(seen.items())),
        wrong=len(wrong),
        memory_mib=f"{held[0]:.1f} then {held[1]:.1f}",
    )
    assert wrong == []
    assert json.loads(before)["choices"] == json.loads(after)["choices"]
    assert seen[200] > 0 and seen[400] > 0
    if full:
        assert held[1] - held[0] <= 20.0


def fault_of(case: Case, statuses: list[int]) -> str:
    """What is wrong with the answers to a case; "" = nothing."""
    if any(status >= 500 for status in statuses):
        return f"a server error among {statuses}"
    if len(statuses) > case.most:
        return f"{len(statuses)} answers {statuses} where {case.most} are allowed"
    if case.ends and not statuses:
        return "no answer"
    return ""


async def send(server, wire, rng: Random, case: Case) -> list[int]:
    """The final statuses that came back, in order."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    got = b""
    cut = rng.randrange(len(case.data)) if rng.random() < 0.3 else 0
    with contextlib.suppress(ConnectionError, TimeoutError):
        for part in (case.data[:cut], case.data[cut:]):
            writer.write(part)
            await writer.drain()
        # where no answer is owed the client loses patience: what comes later is not looked at
        async with asyncio.timeout(None if case.ends else 0.3):
            while data := await reader.read(1 << 16):
                got += data
    if not writer.transport.is_closing():
        wire.leave(writer, rng.choice(("reset", "close")))
    found = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", got)]
    return [status for status in found if status >= 200]


def memory_mib(server) -> float:
    return sum(process.memory_full_info().uss for process in server.family) / 2**20
