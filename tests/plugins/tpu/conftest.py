"""Torch counts what it traced over all tests; those of compiled programs begin at nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def forget_traces() -> Iterator[None]:
    import torch  # not where only probes are tested

    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
