"""Runs a request alone for some tokens, on a scheduler of its own: is it what kills the worker?"""

from __future__ import annotations

from dataclasses import replace

from inferplane.engine.batch_builder import BatchBuilder
from inferplane.engine.host_rows import draw_host_rows
from inferplane.interfaces import Executor, KVPlan, ShapePolicy
from inferplane.launch import LaunchPlan
from inferplane.request import FinishReason
from inferplane.scheduling.block_manager import BlockManager
from inferplane.scheduling.scheduler import Scheduler
from inferplane.scheduling.sequence import Sequence

__all__ = ["Replay"]


class Replay:
    """A second scheduler over the same executor, for a time when the first one has no blocks."""

    def __init__(
        self, executor: Executor, kv: KVPlan, launch: LaunchPlan, shapes: ShapePolicy
    ) -> None:
        config = launch.config
        self._executor = executor
        self._most_drawn = 1 + launch.caps.limits.async_steps
        self._blocks = BlockManager(
            kv.num_blocks, kv.block_size, kv.groups, caching=False, hash_root=b""
        )
        self._scheduler = Scheduler(
            config,
            launch.scheduler,
            replace(launch.caps.limits, async_steps=0),
            shapes,
            self._blocks,
        )
        self._builder = BatchBuilder(
            kv,
            launch.caps.sampler,
            config.max_num_seqs,
            config.max_model_len,
            launch.model.vocab_size,
            image_token=launch.image_token,
        )
        self.lanes: set[int] = set()
        """Lanes of the last run, which the executor still holds: whoever goes on releases them."""

    @property
    def dirty_blocks(self) -> list[int]:
        """Blocks that a row which failed alone left to be zeroed by whoever goes on."""
        return self._blocks.pool.dirty_blocks()

    def run(self, sequence: Sequence, now: float) -> None:
        """Compute prompt and outputs again, go on as far as the lost steps may have come.

        A step that was out may have read a token that only the device knew, so that token is drawn
        and read as well; then all is forgotten. Raises what the executor or the builder raises.
        """
        copy = self._scheduler.add(sequence.request, now)
        copy.token_ids.extend(sequence.token_ids[sequence.num_prompt_tokens :])
        known = len(copy.token_ids)
        self.lanes.clear()  # this scheduler releases those of the run before
        while not copy.state.terminal and len(copy.token_ids) < known + self._most_drawn:
            plan = self._scheduler.schedule(now)
            if not plan:
                raise RuntimeError(f"request {copy.request_id} alone cannot be scheduled")
            self.lanes.update(item.sequence.lane for item in plan.scheduled)
            built = self._builder.build(plan)
            result = draw_host_rows(built, self._executor.execute(built.batch).result())
            self._scheduler.update(plan, result)
        self._scheduler.finish((copy.request_id,), FinishReason.ABORT)
