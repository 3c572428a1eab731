"""Fixtures that several packages' tests share."""

import os
import select
from collections.abc import Callable
from os import close, pidfd_open

import pytest

# Many tests compare tokens of wide steps with those of narrow ones, which AMX rounds differently.
os.environ.setdefault("IP_CPU_AMX", "off")


@pytest.fixture
def wait_gone() -> Callable[[int], None]:
    """Block until a process, not necessarily our child, has ended."""

    def wait(pid: int) -> None:
        try:
            fd = pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            poll.poll()
        finally:
            close(fd)

    return wait
