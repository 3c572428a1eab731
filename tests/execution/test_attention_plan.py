"""Laws of choosing attention: explained, with one block size and one group for each window."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from inferplane.errors import ConfigError
from inferplane.execution.artifact_cache import DiskCache
from inferplane.execution.attention_plan import AttentionPlan, plan_attention
from inferplane.execution.host_runtime import HostRuntime
from inferplane.execution.reference_attention import ReferenceAttention
from inferplane.interfaces import (
    AttentionSpec,
    Capabilities,
    EngineConfig,
    ModelShape,
    Reasons,
    ShapePolicy,
    WorkerContext,
)
from inferplane.layers.build import AttentionSite
from inferplane.registry import Catalogue, Entry

SITES = (
    AttentionSite("l0", 4, 2, 16, 16, 0.25, window=24),
    AttentionSite("l1", 4, 2, 16, 16, 0.25),
    AttentionSite("l2", 4, 2, 16, 16, 0.25, window=24),
)


class Wide(ReferenceAttention):
    """Full attention alone, in blocks of 48 tokens."""

    block_multiple = 48
    graph: ClassVar[Literal["never", "decode", "always"]] = "never"

    @classmethod
    def supports(cls, spec: AttentionSpec, caps: Capabilities) -> Reasons:
        return ("no window",) if spec.window else ()


class Strange(ReferenceAttention):
    """Reads a layout that nobody lays out."""

    layouts = ("swirl",)


def plan(
    *names: str,
    caps: Capabilities = Capabilities(),  # noqa: B008 - frozen
    sites: tuple[AttentionSite, ...] = SITES,
    **settings: object,
) -> AttentionPlan:
    shape = ModelShape("", 3, 64, 4, 2, 16, 100, 512, "float32")
    config = replace(EngineConfig(""), **settings)  # type: ignore[arg-type]
    context = WorkerContext(config, caps, shape, ShapePolicy(), DiskCache(Path()))
    targets = {"wide": Wide, "strange": Strange}
    lines = [("attention", _Loaded(name, targets.get(name))) for name in names]
    return plan_attention(sites, "float32", context, Catalogue(lines), (), HostRuntime())


class _Loaded(Entry):
    """An entry whose target is at hand; None = its module cannot be imported."""

    def __init__(self, name: str, backend: type | None) -> None:
        super().__init__(name, "module:name", "acme")
        object.__setattr__(self, "_backend", backend)

    __slots__ = ("_backend",)

    def load(self) -> object:
        if self._backend is None:
            raise ImportError("no SDK here")
        return self._backend


def test_layers_with_the_same_window_share_a_group() -> None:
    groups = plan().groups
    assert [(g.window, [x.name for x in g.layers]) for g in groups] == [
        (24, ["l0", "l2"]),
        (None, ["l1"]),
    ]


def test_each_part_knows_its_group() -> None:
    assert [(part.layers, part.spec.group) for part in plan().parts] == [
        (("l0", "l2"), 0),
        (("l1",), 1),
    ]


def test_the_reference_serves_what_everyone_else_refuses_and_says_why() -> None:
    found = plan("wide", "strange", "broken")
    by_layer = {part.layers: part for part in found.parts}
    assert type(by_layer["l1",].backend) is Wide
    assert by_layer["l0", "l2"].is_reference
    refused = found.choices[0].rejected
    assert refused["wide"] == ("no window",)
    assert refused["strange"] == ("reads KV layouts swirl, this device lays out nhd",)
    assert refused["broken"] == ("cannot be imported: ImportError: no SDK here",)


def test_the_block_size_suits_the_device_and_every_chosen_backend() -> None:
    found = plan("wide", caps=Capabilities(block_multiple=32))
    assert found.block_size == 96
    assert {part.spec.block_size for part in found.parts} == {96}


def test_a_block_size_the_user_set_rules_out_backends_that_cannot_use_it() -> None:
    found = plan("wide", block_size=16)
    assert found.block_size == 16 and all(part.is_reference for part in found.parts)
    assert found.choices[1].rejected["wide"] == ("block_size 16: needs a multiple of 48",)


def test_a_block_size_the_device_cannot_use_is_an_error() -> None:
    with pytest.raises(ConfigError, match="needs a multiple of 16"):
        plan(block_size=24)


def test_a_device_that_only_compiles_takes_no_backend_that_cannot_be() -> None:
    found = plan("wide", caps=Capabilities(static_shapes=True))
    assert all(part.is_reference for part in found.parts)


def test_a_backend_the_user_chose_is_an_error_where_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="'wide' was asked for.*no window"):
        plan("wide", attention="wide")


def test_without_fallback_a_layer_nobody_serves_is_an_error() -> None:
    with pytest.raises(ConfigError, match="fallback=error forbids it"):
        plan("wide", fallback="error")
    assert plan("wide", fallback="error", attention="reference").parts[0].is_reference


def test_where_not_even_the_reference_works_all_reasons_are_told() -> None:
    with pytest.raises(ConfigError, match="reference: reads KV layouts nhd"):
        plan("strange", caps=Capabilities(kv_layouts=("swirls",)))


def test_a_cache_in_another_type_must_be_one_the_device_stores() -> None:
    caps = Capabilities(kv_dtypes=("bfloat16",))
    assert plan(caps=caps, kv_dtype="bfloat16").groups[0].layers[0].dtype == "bfloat16"
    with pytest.raises(ConfigError, match="this device stores bfloat16"):
        plan(caps=caps, kv_dtype="float16")
