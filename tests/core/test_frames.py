import socket
import threading
from collections.abc import Iterator

import pytest

from inferplane.frames import FrameBuffer, FrameSocket, frame


@pytest.fixture
def pair() -> Iterator[tuple[FrameSocket, FrameSocket]]:
    ends = socket.socketpair()
    left, right = map(FrameSocket, ends)
    yield left, right
    left.close()
    right.close()


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 8, 1000])
def test_frames_come_whole_however_the_bytes_are_cut(cut) -> None:
    payloads = [b"", b"a", b"bc" * 40, b"\x00" * 7]
    data = b"".join(frame(payload) for payload in payloads)
    buffer, seen = FrameBuffer(), []
    for start in range(0, len(data), cut):
        seen += buffer.feed(data[start : start + cut])
    assert seen == payloads


def test_an_absurd_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="4294967295 bytes"):
        FrameBuffer().feed(b"\xff\xff\xff\xff")


def test_nothing_blocks_and_nothing_is_lost_while_the_other_side_does_not_read(pair) -> None:
    left, right = pair
    payload = b"x" * 1_000_000
    for _ in range(20):
        left.send(payload)
    assert left.unsent_bytes > 0
    sender = threading.Thread(target=left.drain, args=(60.0,))
    sender.start()
    assert [len(right.receive()) for _ in range(20)] == [1_000_000] * 20
    sender.join()
    assert left.unsent_bytes == 0


def test_take_returns_at_once(pair) -> None:
    left, right = pair
    assert right.take() is None
    left.send(b"one")
    left.send(b"two")
    assert [right.take(), right.take(), right.take()] == [b"one", b"two", None]


def test_what_arrived_before_the_end_can_still_be_taken(pair) -> None:
    left, right = pair
    left.send(b"last words")
    left.close()
    right.wait(None)
    assert right.take() == b"last words"
    assert right.take() is None and right.closed
    with pytest.raises(EOFError):
        right.receive()


def test_sending_to_the_dead_is_no_error(pair) -> None:
    left, right = pair
    right.close()
    left.send(b"x" * 10_000_000)
    assert left.unsent_bytes == 0
    assert left.take() is None and left.closed


def test_last_words_outlive_a_failed_answer(pair) -> None:
    left, right = pair
    right.send(b"last words")
    right.close()
    left.send(b"too late")
    assert left.take() == b"last words"
    assert left.take() is None and left.closed


def test_wait_ends_when_its_time_is_over(pair) -> None:
    left, _ = pair
    left.wait(0.0)
    assert left.take() is None and not left.closed
