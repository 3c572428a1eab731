"""Which backend serves which attention layers, and how layers share blocks; decided once.

Knows nothing of memory: how many blocks there are is decided in `kv_planning`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from inferplane.errors import ConfigError
from inferplane.execution.reference_attention import ReferenceAttention
from inferplane.execution.whole_text_attention import WholeTextAttention
from inferplane.interfaces import (
    AttentionBackend,
    AttentionSpec,
    Choice,
    DeviceRuntime,
    KVGroup,
    LayerKV,
    Reasons,
    WorkerContext,
)
from inferplane.layers.build import AttentionSite
from inferplane.registry import Catalogue, Entry
from inferplane.selection import choose

__all__ = ["AttentionPart", "AttentionPlan", "plan_attention"]


@dataclass(frozen=True, slots=True)
class AttentionPart:
    """All layers of one distinct AttentionSpec."""

    spec: AttentionSpec
    backend: AttentionBackend
    layout: str
    layers: tuple[str, ...]
    is_reference: bool
    crosses: bool = False
    """Its layers attend to what others keep at audio positions."""


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """The attention of one model on one device."""

    block_size: int
    groups: tuple[KVGroup, ...]
    """By window, in order of first use."""
    parts: tuple[AttentionPart, ...]
    choices: tuple[Choice, ...]


def plan_attention(
    sites: Sequence[AttentionSite],
    dtype: str,
    context: WorkerContext,
    catalogue: Catalogue,
    labels: Sequence[str],
    device: DeviceRuntime,
) -> AttentionPlan:
    """Choose a backend for each distinct kind of layer and the block size for all.

    Raises ConfigError when the user's choice is refused, when nothing serves a layer, or when
    `block_size` was set to what a part cannot use.
    """
    selection = _Selection(context, catalogue, labels)
    crossing = [site for site in sites if site.reads is not None]
    sites = [site for site in sites if site.reads is None]
    specs = _specs(sites, dtype, _kv_dtype(dtype, context))
    cached = [site for site in sites if site.cached]
    windows = list(dict.fromkeys(site.window for site in cached))
    chosen, block_size = selection.settle(list(specs))
    parts: list[AttentionPart] = []
    layouts: dict[str, str] = {}
    for spec, names in specs.items():
        backend, layout, choice = chosen[spec]
        group = windows.index(spec.window) if spec.cached else 0
        final = replace(spec, block_size=block_size, group=group)
        is_reference = backend in (ReferenceAttention, WholeTextAttention)
        parts.append(AttentionPart(final, backend(final, device), layout, names, is_reference))
        layouts |= dict.fromkeys(names, layout)
    parts += [part for part in (_crossing(part, crossing) for part in parts) if part.layers]
    groups = tuple(_group(window, cached, parts[0].spec.kv_dtype, layouts) for window in windows)
    return AttentionPlan(
        block_size,
        groups or (KVGroup(),),
        tuple(parts),
        tuple(choice for _, _, choice in chosen.values()),
    )


_Chosen = tuple[type[AttentionBackend], str, Choice]


class _Selection:
    """Asks candidates in order; the block size they agree on feeds back into what they refuse."""

    def __init__(self, context: WorkerContext, catalogue: Catalogue, labels: Sequence[str]) -> None:
        self._caps = context.caps
        self._config = context.config
        self._entries = [e for e in catalogue["attention"] if e.answers_to(labels)]
        self._classes: dict[Entry, type[AttentionBackend] | str] = {}

    def settle(self, specs: Sequence[AttentionSpec]) -> tuple[Mapping[AttentionSpec, _Chosen], int]:
        """A backend for each spec, and a block size that suits the device and all of them."""
        size = self._config.block_size or self._caps.block_multiple
        if size % self._caps.block_multiple:
            raise ConfigError(
                f"block_size {size}: this device needs a multiple of {self._caps.block_multiple}"
            )
        while True:
            chosen = {spec: self._choose(replace(spec, block_size=size)) for spec in specs}
            common = math.lcm(size, *(backend.block_multiple for backend, _, _ in chosen.values()))
            if common == size:
                return chosen, size
            size = common

    def _choose(self, spec: AttentionSpec) -> _Chosen:
        entry, choice = choose(
            "attention",
            _site(spec),
            self._entries,
            lambda candidate: self._reasons(candidate, spec),
            preferred=self._caps.prefer.get("attention", ()),
            requested=self._config.attention,
        )
        if entry is not None:
            backend = self._class(entry)
            assert not isinstance(backend, str)
            return backend, self._layout(backend) or "", choice
        reference = ReferenceAttention if spec.cached else WholeTextAttention
        against = self._against(reference, spec)
        if self._config.fallback == "error" and self._config.attention != "reference":
            against = (*against, "fallback=error forbids it")
        if against:
            told = {**choice.rejected, "reference": against}
            raise ConfigError(
                f"no attention backend for {_site(spec)}: "
                + "; ".join(f"{name}: {', '.join(why)}" for name, why in told.items())
            )
        return reference, self._layout(reference) or "", choice

    def _reasons(self, entry: Entry, spec: AttentionSpec) -> Reasons:
        backend = self._class(entry)
        return (backend,) if isinstance(backend, str) else self._against(backend, spec)

    def _against(self, backend: type[AttentionBackend], spec: AttentionSpec) -> Reasons:
        """The core's reasons, then the backend's own."""
        caps, own = self._caps, []
        if not spec.cached and not backend.encoders:
            return ("needs a KV cache",)
        if spec.cached and self._layout(backend) is None:
            own.append(
                f"reads KV layouts {', '.join(backend.layouts)}, this device lays out "
                f"{', '.join(caps.kv_layouts)}"
            )
        # a size the device proposed may still grow; one the user set may not
        if self._config.block_size and spec.block_size % backend.block_multiple:
            own.append(
                f"block_size {spec.block_size}: needs a multiple of {backend.block_multiple}"
            )
        if caps.static_shapes and backend.graph != "always":
            own.append("cannot be compiled for every shape, and this device runs nothing else")
        grown = math.lcm(spec.block_size, backend.block_multiple)
        return (*own, *backend.supports(replace(spec, block_size=grown), caps))

    def _layout(self, backend: type[AttentionBackend]) -> str | None:
        return next((x for x in backend.layouts if x in self._caps.kv_layouts), None)

    def _class(self, entry: Entry) -> type[AttentionBackend] | str:
        """The class, or why it cannot be imported."""
        if entry not in self._classes:
            try:
                self._classes[entry] = entry.load()
            except Exception as error:  # a backend may need anything; the others must go on
                self._classes[entry] = f"cannot be imported: {type(error).__name__}: {error}"
        return self._classes[entry]


def _specs(
    sites: Sequence[AttentionSite], dtype: str, kv_dtype: str
) -> dict[AttentionSpec, tuple[str, ...]]:
    """Spec without block size and group -> its layers."""
    found: dict[AttentionSpec, tuple[str, ...]] = {}
    for site in sites:
        spec = AttentionSpec(
            num_heads=site.num_heads,
            num_kv_heads=site.num_kv_heads,
            head_dim=site.head_dim,
            head_dim_v=site.head_dim_v,
            dtype=dtype,
            kv_dtype=kv_dtype,
            scale=site.scale,
            block_size=0,
            window=site.window,
            softcap=site.softcap,
            sinks=site.sinks,
            causal=site.cached,
            cached=site.cached,
        )
        found[spec] = (*found.get(spec, ()), site.name)
    return found


def _crossing(part: AttentionPart, crossing: Sequence[AttentionSite]) -> AttentionPart:
    """The layers that read what this part's keep."""
    names = tuple(site.name for site in crossing if site.reads in part.layers)
    return replace(part, layers=names, crosses=True)


def _group(
    window: int | None, sites: Sequence[AttentionSite], dtype: str, layouts: Mapping[str, str]
) -> KVGroup:
    layers = (site.kv(dtype) for site in sites if site.window == window)
    placed: tuple[LayerKV, ...] = tuple(replace(x, layout=layouts[x.name]) for x in layers)
    return KVGroup(placed, window)


def _kv_dtype(dtype: str, context: WorkerContext) -> str:
    asked = context.config.kv_dtype
    known = context.caps.kv_dtypes
    if asked not in ("auto", *known):
        raise ConfigError(
            f"kv_dtype {asked!r}: this device stores {', '.join(known)}; auto takes the model's"
        )
    return dtype if asked == "auto" else asked


def _site(spec: AttentionSpec) -> str:
    window = "" if spec.window is None else f", window {spec.window}"
    heads = f"{spec.num_heads}/{spec.num_kv_heads} heads of {spec.head_dim}"
    return f"{heads}, {spec.dtype}, KV {spec.kv_dtype}{window}"
