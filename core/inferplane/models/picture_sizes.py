"""The picture that costs a model the most, by its config.json: memory is measured with it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from inferplane.interfaces import Array

__all__ = ["largest_picture"]

_MOST_TILES = {
    "aya_vision": (13,),
    "idefics2": (1, 5),
    "idefics3": (1, 17),
    "internvl": (13,),
    "smolvlm": (1, 17),
}
"""model_type -> what stands before the channels where a picture is cut: what the models' own
processors make at most, the whole picture included."""
_SIDE = 224


def largest_picture(whole: Mapping[str, object]) -> dict[str, Array]:
    """Arrays as the model's processor would give them; every pixel is 1, for 0 may mean padding."""
    kind = whole.get("model_type")
    vision = whole.get("vision_config")
    vision = vision if isinstance(vision, dict) else {}
    side = _side(vision.get("image_size"))
    if vision.get("model_type") == "pixtral":
        return _whole_patches(whole, vision, side)
    pinpoints = whole.get("image_grid_pinpoints")
    if isinstance(pinpoints, list) and pinpoints:
        height, width = max(pinpoints, key=lambda size: int(size[0]) * int(size[1]))
        tiles = 1 + -(-height // side) * -(-width // side)
        return {
            "pixel_values": np.ones((1, tiles, 3, side, side), np.float32),
            "image_sizes": np.array([[height, width]], np.int64),
        }
    tiles_of = _MOST_TILES.get(str(kind), (1,))
    return {"pixel_values": np.ones((*tiles_of, 3, side, side), np.float32)}


def _whole_patches(
    whole: Mapping[str, object], vision: Mapping[str, object], side: int
) -> dict[str, Array]:
    """Towers that take any size, as long as its patches can be merged."""
    patch, merged = vision.get("patch_size"), whole.get("spatial_merge_size", 1)
    unit = (patch if isinstance(patch, int) else 16) * (merged if isinstance(merged, int) else 1)
    side = max(side // unit, 1) * unit
    return {
        "pixel_values": np.ones((1, 3, side, side), np.float32),
        "image_sizes": np.array([[side, side]], np.int64),
    }


def _side(stated: object) -> int:
    if isinstance(stated, list) and stated:
        stated = stated[0]
    return stated if isinstance(stated, int) and stated > 0 else _SIDE
