import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from inferplane.catalogue import resolve_model
from inferplane.config import DEFAULT_MODEL
from inferplane.engine.client import EngineClient, Patience
from inferplane.launch import LaunchPlan


@pytest.fixture(scope="session")
def default_model() -> Path:
    """The default model's file, fetched once into the user's cache.

    Skipped only where INFERPLANE_OFFLINE forbids the fetch and the cache is empty.
    """
    offline = bool(os.environ.get("INFERPLANE_OFFLINE"))
    try:
        return resolve_model(DEFAULT_MODEL, offline=offline)
    except Exception as error:
        if not offline:
            raise
        pytest.skip(f"INFERPLANE_OFFLINE is set: {error}")


@pytest.fixture(scope="session")
def url(default_model: Path) -> Iterator[str]:
    """A server of the default model on the cpu plugin, shared by all tests."""
    server = subprocess.Popen(
        [sys.executable, "-m", "inferplane", "serve", "--port", "0", "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout is not None
    try:
        line = server.stdout.readline()
        yield next(word.rstrip(",") for word in line.split() if word.startswith("http"))
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


@asynccontextmanager
async def engine_of(
    plan: LaunchPlan, patience: Patience | None = None
) -> AsyncIterator[EngineClient]:
    """A real engine process on that plan, ready to take requests."""
    client = EngineClient.with_plan(plan, patience)
    await client.start()
    try:
        await client.wait_ready()
        yield client
    finally:
        await client.close()


@pytest.fixture
def launch() -> Callable[..., AbstractAsyncContextManager[EngineClient]]:
    """`async with launch(plan) as client`."""
    return engine_of


@pytest.fixture
def wait_for() -> Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]:
    """Await until an asynchronous condition holds."""

    async def wait(condition: Callable[[], Awaitable[bool]]) -> None:
        while not await condition():
            await asyncio.sleep(0)

    return wait


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A folder with a config.json alone, enough to plan with."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 1000,
        "max_position_embeddings": 512,
        "torch_dtype": "float32",
        "rms_norm_eps": 1e-5,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path
