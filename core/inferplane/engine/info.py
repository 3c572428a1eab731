"""What the front end must know of a started engine."""

from __future__ import annotations

from collections.abc import Mapping

from inferplane.engine.admission import refused_params
from inferplane.engine.capacity import kv_bytes
from inferplane.engine.messages import EngineInfo
from inferplane.interfaces import Choice, Executor, KVPlan
from inferplane.launch import LaunchPlan

__all__ = ["engine_info"]


def engine_info(
    launch: LaunchPlan, kv: KVPlan, executor: Executor, phase_seconds: Mapping[str, float]
) -> EngineInfo:
    """Facts of this launch; asked once after start-up and after each restart of workers."""
    config = launch.config
    return EngineInfo(
        device=launch.device,
        device_reason=launch.probe.reason,
        plugin=launch.plugin,
        plugin_version=launch.plugin_version,
        dtype=config.dtype,
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs,
        max_batched_tokens=config.max_batched_tokens,
        block_size=kv.block_size,
        num_blocks=kv.num_blocks,
        kv_bytes=kv_bytes(launch, kv),
        weight_bytes=launch.weight_bytes,
        vocab_size=launch.model.vocab_size,
        embedding_rows=launch.model.vocab_size,
        refused_params=refused_params(launch.caps.sampler),
        phase_seconds=dict(phase_seconds),
        choices=tuple(_line(choice) for choice in executor.choices()),
        tasks=launch.tasks,
        prefix_cache=launch.scheduler.prefix_cache
        and launch.caps.limits.prefix_cache
        and launch.keeps_kv,
    )


def _line(choice: Choice) -> str:
    rejected = "; ".join(f"{name}: {', '.join(why)}" for name, why in choice.rejected.items())
    because = f" (not {rejected})" if rejected else ""
    return f"{choice.kind} {choice.site}: {choice.name} of {choice.owner}{because}"
