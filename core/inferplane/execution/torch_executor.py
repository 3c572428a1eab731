"""The Executor of every platform whose device runs torch; knows no device by name."""

from __future__ import annotations

import logging
from dataclasses import replace

from inferplane.errors import ConfigError, DeviceError, UnsupportedError
from inferplane.execution.attention_plan import AttentionPlan, plan_attention
from inferplane.execution.dummy_steps import dummy_step, largest_step
from inferplane.execution.heard_steps import check_hearing
from inferplane.execution.host_runtime import HostRuntime
from inferplane.execution.kv_planning import KVDemand, page_bytes, plan_blocks
from inferplane.execution.model_loading import LoadedModel, load_model
from inferplane.execution.results import StepPending
from inferplane.execution.step_runner import StepRunner
from inferplane.execution.torch_allocator import TorchAllocator
from inferplane.execution.torch_communicator import TorchCommunicator
from inferplane.execution.torch_kv_store import TorchKVStore
from inferplane.interfaces import (
    Bucket,
    Choice,
    Communicator,
    Executor,
    ExecutorStats,
    KVPlan,
    KVStore,
    Platform,
    Progress,
    ShapePolicy,
    StepBatch,
    Tag,
    WorkerContext,
)
from inferplane.launch import LaunchPlan

__all__ = ["TorchExecutor"]

_logger = logging.getLogger(__name__)


class TorchExecutor(Executor):
    """One rank: the platform's parts where it has any, the core's own elsewhere."""

    reads_segments = True
    reads_media = True
    hears = True

    def __init__(self, context: WorkerContext, platform: Platform, plan: LaunchPlan) -> None:
        self._context = context
        self._platform = platform
        self._plan = plan
        self._device = platform.create_device(context) or HostRuntime()
        own = platform.create_allocator(context, self._device)
        self._allocator = own or TorchAllocator()
        self._may_sleep = context.caps.sleep or own is not None
        self._communicator: Communicator | None = None
        self._loaded: LoadedModel | None = None
        self._attention: AttentionPlan | None = None
        self._store: KVStore | None = None
        self._steps: StepRunner | None = None

    def load(self, progress: Progress) -> None:
        """Weights on the device, backends chosen."""
        context = self._context
        self._communicator = self._join()
        loaded = load_model(
            self._plan, context, self._device, self._allocator, self._communicator, progress
        )
        self._loaded = loaded
        if not loaded.model.traceable:
            self._run_eagerly()
        self._attention = plan_attention(
            loaded.sites,
            loaded.dtype,
            context,
            self._plan.catalogue(),
            self._plan.labels(),
            self._device,
        )
        check_hearing(loaded.speech, self._attention)
        for choice in self.choices():
            _logger.info("%s %s: %s of %s", choice.kind, choice.site, choice.name, choice.owner)
        self._store = self._platform.create_kv_store(
            context, self._device, self._allocator
        ) or TorchKVStore(self._device, self._allocator, fp8=context.caps.fp8)

    def plan_kv(self) -> KVPlan:
        """Blocks that fit beside the weights and the largest step."""
        assert self._attention is not None and self._store is not None, "load comes first"
        config, attention = self._context.config, self._attention
        limit = self._context.caps.limits.max_step_tokens or config.max_batched_tokens
        step_tokens = min(limit, config.max_batched_tokens)
        demand = KVDemand(attention.groups, attention.block_size, step_tokens)
        page = page_bytes(attention.groups, self._store, attention.block_size)
        if not self._device.memory().shared_with_host:
            # what the largest step allocates is then in use when free memory is read
            trial = KVPlan(1, attention.block_size, attention.groups)
            pooled = not self._plan.generates
            lengths = self._largest_step(attention.block_size)
            batch = dummy_step(trial, lengths, drawn=not pooled, pooled=pooled)
            steps = self._prepare(trial)
            with self._device.rehearsal(last=False):
                self._run(steps, batch)
            reserved = self._rehearse_pictures(steps)
            self._device.synchronize()
        else:
            reserved = 0
        memory = self._device.memory()
        memory = replace(memory, reserved=memory.reserved + reserved)
        return plan_blocks(demand, page, memory, config, may_shrink=self._plan.fit_context)

    def start(self, plan: KVPlan, progress: Progress) -> None:
        """KV taken, every bucket compiled and run."""
        steps = self._prepare(plan)
        buckets = self._context.shapes.buckets()
        pooled = not self._plan.generates
        self._rehearse(plan, progress)
        for done, bucket in enumerate(buckets):
            progress("warm_up", done, len(buckets), str(bucket))
            self._run(steps, dummy_step(plan, [1], pooled=pooled), bucket)
        if steps.compiles_draws and not pooled:
            for bucket in {bucket.num_seqs: bucket for bucket in buckets}.values():
                self._run(steps, dummy_step(plan, [1], drawn=True, scored=False), bucket)
        if not buckets:  # one decode and one prefill: first uses cost the most
            for lengths in ([1], [min(16, self._context.config.max_model_len)]):
                self._run(steps, dummy_step(plan, lengths, pooled=pooled))
        self._device.synchronize()
        steps.programs.seal()
        steps.real_tokens = steps.padded_tokens = 0
        self._steps = steps
        progress("warm_up", len(buckets), len(buckets), "ready")

    def execute(self, batch: StepBatch) -> StepPending:
        """Enqueue one step; nothing here waits for the device."""
        assert self._steps is not None, "start comes first"
        return self._run(self._steps, batch)

    def close(self) -> None:
        """Everything is given back, in the opposite order of taking it."""
        self._steps = self._store = self._attention = self._loaded = None
        if self._communicator is not None:
            self._communicator.close()
            self._communicator = None
        self._device.close()

    def sleep(self, tags: tuple[Tag, ...], keep_copy: bool) -> None:
        """Through the allocator's ledger."""
        self._check_sleep()
        self._device.synchronize()
        for tag in tags:
            self._allocator.release(tag, keep_copy)

    def wake(self, tags: tuple[Tag, ...]) -> None:
        """KV without a copy comes back as zeros."""
        self._check_sleep()
        for tag in tags:
            self._allocator.restore(tag)

    def choices(self) -> tuple[Choice, ...]:
        """Attention first, then ops."""
        if self._loaded is None or self._attention is None:
            return ()
        return (*self._attention.choices, *self._loaded.binder.choices)

    def stats(self) -> ExecutorStats:
        """Counters of compilation and padding; fallbacks count places of the model, and what the
        compiler had to do without."""
        if self._steps is None or self._loaded is None or self._attention is None:
            return ExecutorStats()
        compiled = self._steps.programs.stats()
        fallbacks = {**compiled.fallbacks, **self._loaded.binder.fallbacks}
        slow = sum(len(part.layers) for part in self._attention.parts if part.is_reference)
        if slow:
            fallbacks["attention"] = slow
        return replace(
            compiled,
            real_tokens=self._steps.real_tokens,
            padded_tokens=self._steps.padded_tokens,
            fallbacks=fallbacks,
        )

    def _run_eagerly(self) -> None:
        """No buckets, no programs: what cannot be traced is not padded either."""
        if self._context.caps.static_shapes:
            raise ConfigError(
                f"{self._plan.model.architecture} runs op by op, and device {self._plan.device} "
                "runs nothing but compiled programs: choose another device"
            )
        self._context = replace(self._context, shapes=ShapePolicy())

    def _join(self) -> Communicator | None:
        own = self._platform.create_communicator(self._context, self._device)
        world_size = self._plan.topology.processes
        if own is not None or world_size == 1:
            return own
        return TorchCommunicator(self._context.rank, world_size, self._context.rendezvous)

    def _prepare(self, plan: KVPlan) -> StepRunner:
        assert self._loaded is not None and self._attention is not None and self._store is not None
        # Outside of the guard: the kit writes to these tensors outside of steps.
        self._store.allocate(plan)
        return self._new_runner()

    def _new_runner(self) -> StepRunner:
        assert self._loaded is not None and self._attention is not None and self._store is not None
        with self._device.guard():
            compiler = None
            if self._loaded.model.traceable:
                compiler = self._platform.create_compiler(self._context, self._device)
            return StepRunner(
                self._context, self._device, self._store, self._loaded, self._attention, compiler
            )

    def _rehearse(self, plan: KVPlan, progress: Progress) -> None:
        """Where the device asks for it: every bucket's step by a runner that is thrown away, then
        for real the largest step, which may only have been rehearsed."""
        buckets = self._context.shapes.buckets()
        pooled = not self._plan.generates
        progress("warm_up", 0, len(buckets), "kernels")
        with self._device.rehearsal(last=True) as wanted:
            if not wanted:
                return
            steps = self._new_runner()
            for bucket in buckets:
                self._run(steps, dummy_step(plan, [1], pooled=pooled), bucket)
        lengths = self._largest_step(plan.block_size)
        self._run(self._new_runner(), dummy_step(plan, lengths, drawn=not pooled, pooled=pooled))

    def _rehearse_pictures(self, steps: StepRunner) -> int:
        """Encode the largest picture; the bytes that embeddings kept for later may come to."""
        if steps.pictures is None:
            return 0
        with self._device.guard():
            steps.pictures.rehearse()
        return steps.pictures.most_bytes

    def _largest_step(self, block_size: int) -> list[int]:
        context = self._context
        return largest_step(context.caps.limits, context.config, context.shapes, block_size)

    def _run(
        self, steps: StepRunner, batch: StepBatch, bucket: Bucket | None = None
    ) -> StepPending:
        try:
            with self._device.guard():
                return steps.run(batch, bucket)
        except (RuntimeError, MemoryError) as error:  # torch's own, whatever the device
            raise DeviceError(f"step {batch.step} failed: {error}") from error

    def _check_sleep(self) -> None:
        if not self._may_sleep:  # a platform's own allocator answers for itself
            raise UnsupportedError(f"sleep: {self._plan.device} does not offer it")
