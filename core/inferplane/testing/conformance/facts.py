"""Level 1, facts: what a platform tells the planner is plain, honest, repeatable data."""

from __future__ import annotations

import copy
import os
from dataclasses import FrozenInstanceError, fields, replace
from typing import ClassVar, get_args

import msgspec
import pytest

from inferplane.errors import ConfigError, DeviceUnavailableError
from inferplane.interfaces import (
    Capabilities,
    Change,
    EngineConfig,
    ModelShape,
    Platform,
    Probe,
    SamplingParam,
    ShapePolicy,
    Topology,
)
from inferplane.launch import LaunchSettings
from inferplane.planner import make_plan
from inferplane.settle import apply_changes
from inferplane.testing.conformance.base import Conformance
from inferplane.testing.conformance.state import KitState
from inferplane.testing.conformance.subject import Subject

__all__ = ["FactsConformance", "plan_or_refusal"]

DTYPES = ("float32", "bfloat16", "float16", "float64")
SHAPES = {
    "small": ModelShape("LlamaForCausalLM", 2, 64, 4, 2, 16, 384, 2048, "float32"),
    "large": ModelShape("LlamaForCausalLM", 80, 8192, 64, 8, 128, 128_256, 131_072, "bfloat16"),
    "odd": ModelShape("UnheardOfForCausalLM", 3, 96, 3, 1, 32, 1_001, 77, "float16", "nonsense"),
}


class FactsConformance(Conformance):
    """L1: needs no device. A deliberate ConfigError is an answer; everything else is data."""

    level: ClassVar[int] = 1
    needs_device = False

    @pytest.fixture(params=list(SHAPES))
    def shape(self, request: pytest.FixtureRequest) -> ModelShape:
        """A model in numbers."""
        return SHAPES[request.param]

    @pytest.fixture
    def config(self, subject: Subject) -> EngineConfig:
        """Settings as a user might give them, with mappings that could be written to."""
        return EngineConfig("a-model", device=subject.device, kernels={"rms_norm/1": "nobody"})

    def test_answers_survive_being_sent(self, subject: Subject, shape: ModelShape) -> None:
        """They cross processes as msgpack and land in reports as JSON."""
        probe = subject.probe
        assert msgspec.json.decode(msgspec.json.encode(probe), type=Probe) == probe
        for caps in (subject.caps, subject.platform.capabilities(probe, shape)):
            assert msgspec.msgpack.decode(msgspec.msgpack.encode(caps), type=Capabilities) == caps

    def test_answers_cannot_be_changed(self, subject: Subject) -> None:
        """Frozen data can be passed on without copies and without surprises."""
        for answer in (subject.probe, subject.caps):
            with pytest.raises((FrozenInstanceError, AttributeError)):
                setattr(answer, fields(answer)[0].name, None)

    def test_capabilities_make_sense(self, subject: Subject, shape: ModelShape) -> None:
        """With a model and without one, and after a probe that found nothing."""
        for probe in (subject.probe, Probe(False, "nothing here")):
            for model in (None, shape):
                try:
                    caps = subject.platform.capabilities(probe, model)
                except ConfigError:
                    assert model is not None, "doctor asks without a model and needs an answer"
                    continue
                _check_capabilities(caps)

    def test_answers_repeat_and_nothing_given_is_changed(
        self, subject: Subject, shape: ModelShape, config: EngineConfig
    ) -> None:
        """Asked twice, the same answers; settings, capabilities, environment as before."""
        before = copy.deepcopy((config, subject.caps, shape, subject.probe)), dict(os.environ)
        first, second = (_planned(subject.platform, config, subject, shape) for _ in range(2))
        assert first == second
        after = (config, subject.caps, shape, subject.probe), dict(os.environ)
        assert before == after

    def test_resolve_has_nothing_to_add_to_its_own_changes(
        self, subject: Subject, shape: ModelShape, config: EngineConfig
    ) -> None:
        """Idempotent: a configuration it made must please it."""
        caps = subject.platform.capabilities(subject.probe, shape)
        try:
            changes = subject.platform.resolve(config, caps, shape)
        except ConfigError as refusal:
            assert str(refusal).strip(), "a refusal says why"
            return
        assert isinstance(changes, tuple) and all(isinstance(c, Change) for c in changes)
        for change in changes:
            assert change.reason.strip(), f"{change.key}: the user is told why"
        settled = apply_changes(config, changes, "the kit")
        assert subject.platform.resolve(settled, caps, shape) == ()

    def test_topology_and_environment_are_plain_data(
        self, subject: Subject, config: EngineConfig
    ) -> None:
        """Inline means one process; the environment is text."""
        for ranks in (1, 2):
            asked = replace(config, tensor_parallel=ranks)
            try:
                topology = subject.platform.topology(asked, subject.caps)
            except ConfigError as refusal:
                assert str(refusal).strip()
                continue
            assert isinstance(topology, Topology)
            assert topology.processes >= 1 and topology.devices_per_process >= 1
            assert topology.placement == "worker" or topology.processes == 1
            for rank in range(topology.processes):
                for name, value in subject.platform.worker_env(asked, rank).items():
                    assert isinstance(name, str) and isinstance(value, str), name

    def test_shapes_are_a_pure_answer(self, subject: Subject, config: EngineConfig) -> None:
        """The engine and doctor ask it as well, far from the device."""
        first = subject.platform.shapes(config, subject.caps)
        assert isinstance(first, ShapePolicy)
        assert first.buckets() == subject.platform.shapes(config, subject.caps).buckets()
        assert first.buckets() or not subject.caps.static_shapes

    def test_an_option_it_does_not_know_is_refused(
        self, subject: Subject, inferplane_kit: KitState
    ) -> None:
        """A typing error in an option must not pass for the default."""
        settings = subject.config(
            inferplane_kit.model("llama"), options={"no_such_option_at_all": "1"}
        )
        with pytest.raises(ConfigError) as refused:
            make_plan(LaunchSettings(settings, plugins=subject.allowed))
        if subject.probe.ok:
            assert "no_such_option_at_all" in str(refused.value)

    def test_an_unusable_device_is_refused_with_its_own_reason(
        self, subject: Subject, inferplane_kit: KitState
    ) -> None:
        """A named device is that one or none, never another."""
        if subject.probe.ok:
            plan_or_refusal(subject, inferplane_kit)
            return
        with pytest.raises(DeviceUnavailableError) as refused:
            subject.plan(inferplane_kit.model("llama"))
        assert subject.probe.reason in str(refused.value)

    def test_a_device_nobody_offers_is_refused(
        self, subject: Subject, inferplane_kit: KitState
    ) -> None:
        """With the names that exist."""
        with pytest.raises(DeviceUnavailableError, match=subject.device):
            settings = subject.config(inferplane_kit.model("llama"), device="no-such-device")
            make_plan(LaunchSettings(settings, plugins=subject.allowed))


def plan_or_refusal(subject: Subject, kit: KitState) -> None:
    """A usable device either makes a plan for itself or refuses the model with a reason."""
    try:
        plan = subject.plan(kit.model("llama"))
    except ConfigError as refusal:
        assert str(refusal).strip()
        return
    assert plan.device == subject.device


def _planned(
    platform: Platform, config: EngineConfig, subject: Subject, shape: ModelShape
) -> tuple[object, ...]:
    """Every answer of the planner's part, refusals by their text."""

    def answer(method: str, *arguments: object) -> object:
        try:
            return getattr(platform, method)(*arguments)
        except ConfigError as refusal:
            return str(refusal)

    return (
        platform.capabilities(subject.probe, shape),
        answer("resolve", config, subject.caps, shape),
        answer("topology", config, subject.caps),
        answer("worker_env", config, 0),
    )


def _check_capabilities(caps: Capabilities) -> None:
    limits, sampler = caps.limits, caps.sampler
    assert caps.compute_dtypes and set(caps.compute_dtypes) <= set(DTYPES)
    assert caps.kv_dtypes and caps.kv_layouts and caps.block_multiple >= 1
    assert limits.max_prefill_seqs is None or limits.max_prefill_seqs >= 1
    assert limits.max_num_seqs is None or limits.max_num_seqs >= 1
    assert limits.max_step_tokens is None or limits.max_step_tokens >= 1
    assert limits.chunk_multiple >= 1 and limits.max_drafts >= 0
    assert limits.async_steps in (0, 1), "token_source reaches one step back"
    assert set(sampler.params) <= set(get_args(SamplingParam))
    assert sampler.max_top_k is None or sampler.max_top_k >= 1
    assert sampler.max_logprobs >= 0
    if "temperature" not in sampler.params:
        assert sampler.host_rows or sampler.params == (), "who draws?"
    for name, text in caps.options.items():
        assert text.strip(), f"option {name} needs a help text"
