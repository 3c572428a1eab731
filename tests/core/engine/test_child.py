import asyncio
import gc
import os

import pytest

from inferplane.engine.child import EngineChild
from inferplane.testing.null_engine import null_plan


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_a_process_that_cannot_be_started_leaves_no_descriptor() -> None:
    async def start() -> None:
        child = EngineChild(lambda message: None)
        try:
            with pytest.raises(ValueError, match="null byte"):
                await child.start(null_plan(), {"a name": "with a \0 in its value"})
        finally:
            child.close()

    gc.collect()
    before = open_descriptors()
    asyncio.run(start())
    assert open_descriptors() == before
