"""Make the Executor of one rank from a LaunchPlan; the engine knows this function by name only."""

from __future__ import annotations

import hashlib
from pathlib import Path

from inferplane.errors import ConfigError
from inferplane.execution.artifact_cache import DiskCache
from inferplane.interfaces import Executor, Platform, WorkerContext
from inferplane.launch import LaunchPlan

__all__ = ["create_executor"]

_CACHE = Path("~/.cache/inferplane/programs")


def create_executor(
    plan: LaunchPlan, rank: int = 0, local_rank: int = 0, rendezvous: str = ""
) -> Executor:
    """The platform's own executor where it has one, else the core's for torch devices.

    Nothing is loaded yet. Raises ConfigError or DeviceError from the platform.
    """
    platform: Platform = plan.catalogue()["platforms"].get(plan.device).load()()
    context = WorkerContext(
        config=plan.config,
        caps=plan.caps,
        model=plan.model,
        shapes=platform.shapes(plan.config, plan.caps),
        cache=DiskCache(_cache_folder(plan)),
        rank=rank,
        local_rank=local_rank,
        rendezvous=rendezvous,
    )
    executor = platform.create_executor(context)
    if executor is not None:
        if not (plan.keeps_kv or executor.reads_segments):
            raise ConfigError(
                f"device {plan.device} cannot tell the two texts of a pair apart, which "
                f"{plan.model.architecture} may ask for: choose another device"
            )
        if plan.image_token is not None and not (plan.speech or executor.reads_media):
            raise ConfigError(
                f"device {plan.device} takes no pictures, which {plan.model.architecture} is for: "
                "choose another device"
            )
        if plan.speech is not None and not executor.hears:
            raise ConfigError(
                f"device {plan.device} takes no recordings, which {plan.model.architecture} is "
                "for: choose another device"
            )
        return executor
    # torch costs seconds and 200 MB, which a platform with its own executor may not want
    from inferplane.execution.torch_executor import TorchExecutor

    return TorchExecutor(context, platform, plan)


def _cache_folder(plan: LaunchPlan) -> Path:
    """Programs depend on plugin, device, model and every setting; a compiler adds its own key."""
    said = repr((plan.plugin_version, plan.probe.arch, plan.model, plan.config)).encode()
    return _CACHE.expanduser() / plan.plugin / hashlib.sha256(said).hexdigest()[:16]
