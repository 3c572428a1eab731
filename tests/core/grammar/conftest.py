"""A tiny checkpoint whose tokenizer grammars are compiled for."""

import pytest

from inferplane.checkpoint import open_checkpoint
from inferplane.testing.tiny import write_tiny_model
from inferplane.tokenization.tokenizer import load_tokenizer


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grammar") / "tiny"
    write_tiny_model(folder, "llama")
    return folder


@pytest.fixture(scope="session")
def tokenizer(model):
    return load_tokenizer(open_checkpoint(model))
