"""Tiny random models that see pictures, made by the transformers library's own classes.

One of each `model_type` that is served, with what their processors would give for a picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from inferplane.interfaces import Array
from inferplane.media import MediaItem, media_item

__all__ = [
    "IMAGE",
    "SEEING_KINDS",
    "SeeingKind",
    "picture_arrays",
    "picture_prompt",
    "write_seeing_model",
]

IMAGE = 97
"""The token that stands for a row of a picture."""
_TILE = (IMAGE,) * 9
_TEXT = {
    "vocab_size": 99,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 24,
    "patch_size": 4,
    "initializer_range": 0.3,
}
_CLIP = {"model_type": "clip_vision_model", **_VISION}
_TILED = {"vision_config": _VISION, "scale_factor": 2, "pad_token_id": 0}
_COARSE = {**_VISION, "patch_size": 8}
_GRID = {"image_grid_pinpoints": [[24, 48], [48, 24]]}


@dataclass(frozen=True)
class SeeingKind:
    """One model_type, small."""

    config: Mapping[str, object]
    """What it says beside its text."""
    pixels: tuple[int, ...]
    """Shape for one picture."""
    places: tuple[int, ...]
    """What stands for one picture; there may be other tokens between its tiles."""
    size: tuple[int, int] | None = None
    """image_sizes, where it asks for them."""
    axis: int = 0
    """Along which the library's class has the pictures of a prompt."""
    text: str = "llama"
    masked: bool = False
    """Whether its processor says which pixels are no padding."""


SEEING_KINDS: Mapping[str, SeeingKind] = {
    "aya_vision": SeeingKind(
        {"vision_config": {"model_type": "siglip_vision_model", **_VISION}, "downsample_factor": 2},
        (2, 3, 24, 24),
        (IMAGE,) * 18,
        text="cohere2",
    ),
    "idefics2": SeeingKind(
        {
            "vision_config": _VISION,
            "perceiver_config": {
                "hidden_size": 64,
                "resampler_n_latents": 4,
                "resampler_depth": 1,
                "resampler_n_heads": 2,
                "resampler_head_dim": 16,
                "num_key_value_heads": 1,
                "initializer_range": 0.3,
            },
        },
        (1, 1, 3, 24, 24),
        (IMAGE,) * 4,
        axis=1,
    ),
    "idefics3": SeeingKind(
        _TILED, (1, 2, 3, 24, 24), (*_TILE, 50, 51, *_TILE), axis=1, masked=True
    ),
    "internvl": SeeingKind(
        {"vision_config": {**_VISION, "image_size": [24, 24], "patch_size": [4, 4]}},
        (2, 3, 24, 24),
        (*_TILE, *_TILE),
    ),
    "llava": SeeingKind({"vision_config": _CLIP}, (1, 3, 24, 24), (IMAGE,) * 36),
    "llava_next": SeeingKind(
        {"vision_config": {**_CLIP, **_COARSE}, **_GRID}, (1, 3, 3, 24, 24), (IMAGE,) * 30, (20, 40)
    ),
    "llava_onevision": SeeingKind(
        {"vision_config": {"model_type": "siglip_vision_model", **_COARSE}, **_GRID},
        (1, 3, 3, 24, 24),
        (IMAGE,) * 30,
        (20, 40),
    ),
    "mistral3": SeeingKind(
        {
            "vision_config": {"model_type": "pixtral", **_VISION, "head_dim": 16},
            "spatial_merge_size": 2,
        },
        (1, 3, 16, 24),
        (IMAGE, IMAGE, IMAGE, 50, IMAGE, IMAGE, IMAGE),
        (16, 24),
        text="mistral",
    ),
    "smolvlm": SeeingKind(_TILED, (1, 2, 3, 24, 24), (*_TILE, 50, *_TILE), axis=1, masked=True),
    "vipllava": SeeingKind(
        {"vision_config": _CLIP, "vision_feature_layers": [-1, -2]}, (1, 3, 24, 24), (IMAGE,) * 36
    ),
}


def picture_arrays(kind: str, seed: int) -> dict[str, Array]:
    """What the model's processor would give for one picture."""
    one, random = SEEING_KINDS[kind], np.random.default_rng(seed)
    made: dict[str, Array] = {"pixel_values": random.standard_normal(one.pixels).astype(np.float32)}
    if one.size is not None:
        made["image_sizes"] = np.array([one.size])
    if one.masked:
        shape = (*one.pixels[:-3], *one.pixels[-2:])
        made["pixel_attention_mask"] = np.ones(shape, np.int64)
        made["pixel_attention_mask"][..., 16:, :] = seed % 2
    return made


def picture_prompt(kind: str, *seeds: int) -> tuple[list[int], tuple[MediaItem, ...]]:
    """Text with a picture of each seed."""
    ids: list[int] = [5, 6, 7]
    items = []
    for seed in seeds:
        places = SEEING_KINDS[kind].places
        items.append(
            media_item(offset=len(ids), length=len(places), arrays=picture_arrays(kind, seed))
        )
        ids += [*places, 8, 9]
    return [*ids, 10, 11, 12], tuple(items)


def write_seeing_model(folder: Path, kind: str, text: str = "") -> Any:
    """Write a model with random weights, the same each time, and return the library's own.

    `text` is the model_type of its language model, "" = what is usual for the kind.
    """
    import torch

    library: Any = import_module("transformers")  # seconds, and an extra: only who asks pays
    library.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    one = SEEING_KINDS[kind]
    config = library.CONFIG_MAPPING[kind](
        text_config={"model_type": text or one.text, **_TEXT},
        image_token_id=IMAGE,
        initializer_range=0.3,
        **one.config,
    )
    model = library.AutoModelForImageTextToText.from_config(config).eval()
    model.save_pretrained(folder)
    return model
