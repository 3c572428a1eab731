"""Every field with every awkward value: refusals name it, nothing fails, nothing lingers."""

from __future__ import annotations

import asyncio
import itertools
import json
import time

import pytest

from inferplane.server.limits import Limits
from inferplane.server.schema import chat, completions, pooling, tokenize

LONG = "x" * 5000
VALUES = [
    None, True, False, 0, 1, -1, 2, 3, 1.5, -0.0, 1e-30, 1e38, 1e308, -1e308, 2**31, -(2**31),
    2**53 + 1, 2**63, -(2**63) - 1, 2**64, 10**40, "", " ", "5", "nan", "\u0000", "\ud7ff", "é",
    LONG, [], [[]], [None], [1], [-1], [2**40], ["a"], [""], ["a"] * 200, {}, {"": 1}, {"a": None},
    {"5": 100}, {"-1": 1}, {"type": "json_object"}, {"type": "xxx"}, {"a": {"b": {"c": []}}},
]  # fmt: skip
NASTY_JSON = [
    b'{"prompt": "a", "temperature": NaN}',
    b'{"prompt": "a", "temperature": Infinity}',
    b'{"prompt": "a", "n": 1e999}',
    b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
    b'{"prompt": "\\ud800"}',
    b'{"prompt": "\\udc00\\ud800"}',
    b'{"prompt": "a", "prompt": "b"}',
    b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    b'{"prompt": "a"} trailing',
    b'\xef\xbb\xbf{"prompt": "a"}',
    b'{"prompt": "\xff"}',
    b"null",
    b"[]",
    b"",
]
SHORT = {"max_tokens": 2, "temperature": 0}


def routes() -> dict[str, tuple[dict, list[str]]]:
    """Path -> (a good body, its fields)."""
    limits = Limits()
    talk = {"messages": [{"role": "user", "content": "a"}]}
    return {
        "/v1/completions": (
            {"prompt": "a"} | SHORT,
            list(completions.completion_structure(limits).fields),
        ),
        "/v1/chat/completions": (talk | SHORT, list(chat.chat_structure(limits).fields)),
        "/tokenize": ({"prompt": "a"}, list(tokenize.tokenize_structure(limits).fields)),
        "/detokenize": ({"tokens": [5]}, list(tokenize.detokenize_structure().fields)),
        "/v1/embeddings": ({"input": "a"}, list(pooling.embedding_structure(limits).fields)),
    }


def cases(count: int, rng) -> list[tuple[str, bytes]]:
    """(path, body): each field with each value once, then random pairs; a sample when fewer."""
    single, paired = [], []
    for path, (body, fields) in routes().items():
        single += [(path, body | {f: v}) for f, v in itertools.product(fields, VALUES)]
        for _ in range(count // 5):
            pair = {rng.choice(fields): rng.choice(VALUES) for _ in range(2)}
            paired.append((path, body | pair))
    rng.shuffle(single)
    rng.shuffle(paired)
    share = min(len(single), count * 4 // 5)
    chosen = single[:share] + paired[: count - share]
    found = [(path, json.dumps(body).encode()) for path, body in chosen]
    return found + [(path, raw) for path in routes() for raw in NASTY_JSON]


@pytest.mark.case("fuzz-fields")
@pytest.mark.case("int-extremes")
@pytest.mark.case("lone-surrogate")
@pytest.mark.case("tiny-temperature")
def test_field_fuzz(serve, rng, record, full, until) -> None:
    server = serve("--max-num-seqs", "32", "--max-waiting", "1000", check="0")
    asyncio.run(fuzz(server, cases(5000, rng), record, full, until))


async def fuzz(server, todo: list[tuple[str, bytes]], record, full, until) -> None:
    golden = {"prompt": "abc", "max_tokens": 8, "temperature": 0}
    _, _, before = await server.ask("POST", "/v1/completions", golden)
    numbers = iter(range(len(todo)))
    statuses: dict[int, int] = {}
    wrong: list[str] = []
    slowest = 0.0

    async def client() -> None:
        nonlocal slowest
        for number in numbers:
            path, body = todo[number]
            began = time.monotonic()
            status, answer = await post(server, path, body)
            slowest = max(slowest, time.monotonic() - began)
            statuses[status] = statuses.get(status, 0) + 1
            if fault := fault_of(status, answer):
                wrong.append(f"{path} {body[:300]!r}: {status}, {fault}")

    await asyncio.gather(*(client() for _ in range(8)))
    _, _, after = await server.ask("POST", "/v1/completions", golden)
    await until(server.idle)
    record(
        cases=len(todo),
        statuses=dict(sorted(statuses.items())),
        server_errors=sum(count for status, count in statuses.items() if status >= 500),
        slowest_s=round(slowest, 2),
    )
    assert wrong == []
    assert json.loads(before)["choices"] == json.loads(after)["choices"]
    if full:
        assert slowest <= 2.0


async def post(server, path: str, body: bytes) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    data = await reader.read()
    writer.close()
    head_line, _, rest = data.partition(b"\r\n\r\n")
    return int(head_line.split()[1]), rest


def fault_of(status: int, answer: bytes) -> str:
    """What is wrong with an answer; "" = nothing."""
    if status == 200:
        return ""
    if not 400 <= status < 500:
        return "neither served nor refused"
    error = json.loads(answer).get("error", {})
    if not {"message", "type", "param", "code"} <= set(error):
        return f"not the error body: {answer[:200]!r}"
    leaks = [leak for leak in ("Traceback", "0x7f", ".py", "inferplane.") if leak in str(error)]
    return f"leaks {leaks}" if leaks else ""
