"""What the SDK reads from the environment, once, while it is imported: returned as data."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["worker_environment"]

_RECIPE_MEGABYTES = 16384
"""The vendor's own bound on the folder; the oldest programs are dropped beyond it."""


def worker_environment(rank: int, world_size: int, recipe_cache: str) -> Mapping[str, str]:
    """For the worker of one rank.

    Programs come from torch.compile, so the lazy mode is off. Counters of the sampler are 64 bits
    wide, and the stack cuts int64 to 32 bits unless told not to. `recipe_cache` "" = programs are
    compiled at each start.
    """
    environment = {"PT_HPU_LAZY_MODE": "0", "PT_ENABLE_INT64_SUPPORT": "1"}
    if recipe_cache:
        keep = "false"  # do not empty the folder at start
        environment["PT_HPU_RECIPE_CACHE_CONFIG"] = f"{recipe_cache},{keep},{_RECIPE_MEGABYTES}"
    if world_size > 1:
        environment |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "HLS_MODULE_ID": str(rank),
        }
    return environment
