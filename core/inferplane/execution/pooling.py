"""Which hidden state of a sequence stands for all of it, as the checkpoint or the model says."""

from __future__ import annotations

from inferplane.checkpoint import Checkpoint
from inferplane.checkpoint.sentence_layout import Pooling, read_sentence_layout
from inferplane.interfaces import Model

__all__ = ["Pooling", "read_pooling"]


def read_pooling(checkpoint: Checkpoint, model: type[Model] = Model) -> Pooling:
    """What the files say, else what the model's class does; that class alone where a part behind
    the pooling was trained on one state. Raises ModelError when a file is damaged.
    """
    if model.has_head:
        return model.pooling
    return read_sentence_layout(checkpoint).pooling or model.pooling
