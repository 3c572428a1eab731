"""The core's own part of settling a configuration: what follows from model and capabilities.

Pure: changes come back as data, each with its reason; applying them twice changes nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

from inferplane.errors import ConfigError
from inferplane.interfaces import Capabilities, Change, EngineConfig, ModelShape
from inferplane.launch import LaunchSettings

__all__ = ["apply_changes", "check_settings", "core_changes"]


def check_settings(device: str, config: EngineConfig, caps: Capabilities) -> None:
    """Raises ConfigError for what this device does not know, naming what it does."""
    for name in config.options:
        if name not in caps.options:
            known = ", ".join(sorted(caps.options)) or "none"
            raise ConfigError(f"device {device} has no option {name!r} (known: {known})")
    for setting, value, accepted in (
        ("dtype", config.dtype, caps.compute_dtypes),
        ("kv_dtype", config.kv_dtype, caps.kv_dtypes),
    ):
        if value not in ("auto", *accepted):
            known = ", ".join(("auto", *accepted))
            raise ConfigError(f"device {device} has no {setting} {value!r} (accepted: {known})")
    if config.block_size % caps.block_multiple:
        raise ConfigError(
            f"block_size {config.block_size} is no multiple of {caps.block_multiple}, "
            f"which device {device} needs; 0 chooses one"
        )


def core_changes(
    settings: LaunchSettings, caps: Capabilities, model: ModelShape, *, generates: bool = True
) -> tuple[Change, ...]:
    """Edits of the configuration that follow from the model and the device's limits.

    `generates` False: only whole texts are computed, each in one step.
    """
    config, limits = settings.config, caps.limits
    changes = []
    if config.dtype == "auto":
        if model.dtype in caps.compute_dtypes:
            changes.append(Change("dtype", model.dtype, "the model's own"))
        else:
            first = caps.compute_dtypes[0]
            changes.append(Change("dtype", first, f"the device does not compute {model.dtype}"))
    if config.max_model_len == 0:
        changes.append(Change("max_model_len", model.max_position, "all that the model allows"))
    elif config.max_model_len > model.max_position:
        changes.append(Change("max_model_len", model.max_position, "the model allows no more"))
    for key, most in (
        ("max_num_seqs", limits.max_num_seqs),
        ("max_batched_tokens", limits.max_step_tokens),
    ):
        if most is not None and getattr(config, key) > most:
            changes.append(Change(key, most, "the device's limit"))
    chunks = generates and caps.limits.chunked_prefill and settings.scheduler.chunked_prefill
    return (*changes, *([] if chunks else _whole_prompts(config, caps, changes)))


def apply_changes(config: EngineConfig, changes: Sequence[Change], owner: str) -> EngineConfig:
    """The configuration after these edits. Raises ConfigError for a setting that does not exist."""
    known = {field.name for field in fields(EngineConfig)}
    for change in changes:
        if change.key not in known:
            raise ConfigError(f"{owner} changes {change.key!r}, which is no setting")
        config = replace(config, **{change.key: change.value})  # type: ignore[arg-type]
    return config


def _whole_prompts(config: EngineConfig, caps: Capabilities, so_far: list[Change]) -> list[Change]:
    """Where prompts are never cut, one step must take the longest."""
    settled = apply_changes(config, so_far, "the core")
    if settled.max_batched_tokens >= settled.max_model_len:
        return []
    most = caps.limits.max_step_tokens
    if most is not None and most < settled.max_model_len:
        reason = "prompts are not cut here, and one step takes no more"
        return [Change("max_model_len", most, reason)]
    reason = "prompts are not cut here, so one step must take the longest"
    return [Change("max_batched_tokens", settled.max_model_len, reason)]
