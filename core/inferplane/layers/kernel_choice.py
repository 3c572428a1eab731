"""Which kernel serves a layer's quantised weights, and why the others do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inferplane.errors import ConfigError
from inferplane.interfaces import Choice, LinearSite, QuantKernel, QuantScheme, Reasons
from inferplane.registry import Entry
from inferplane.selection import REFERENCE, choose

if TYPE_CHECKING:
    from inferplane.layers.build import Builder

__all__ = ["choose_kernel"]


def choose_kernel(
    build: Builder, scheme: QuantScheme, site: LinearSite, loads_dense: bool
) -> type[QuantKernel] | None:
    """The kernel of the device for that site, or None; the choice is noted.

    A stack that has none is served matrix by matrix, and nothing is noted. Raises ConfigError where
    another layer has none, the user forbade to dequantise, and the loader does not do it already
    (`loads_dense`).
    """
    binder = build.binder
    requested = binder.config.kernels.get("quantization", "auto")
    entries = [
        entry
        for entry in binder.catalogue["quantization_kernels"]
        if entry.answers_to(binder.labels)
    ]
    if site.num_experts and requested != "auto":
        entries = [entry for entry in entries if requested in (entry.name, entry.owner)]
    classes: dict[Entry, Any] = {}

    def reasons(entry: Entry) -> Reasons:
        if build.runtime is None:
            return ("the model was built without a device runtime",)
        try:
            classes[entry] = entry.load()
        except Exception as error:  # a kernel's module may need anything; others must go on
            return (f"cannot be imported: {type(error).__name__}: {error}",)
        if site.num_experts and classes[entry].apply_each is QuantKernel.apply_each:
            return ("has no stacks of experts",)
        found: Reasons = classes[entry].supports(scheme, site, binder.caps)
        return found

    experts = f" for each of {site.num_experts} experts" if site.num_experts else ""
    entry, choice = choose(
        "quantization",
        f"{_described(scheme)} {site.in_features}x{site.out_features}{experts} {site.dtype}",
        entries,
        reasons,
        preferred=binder.caps.prefer.get("quantization", ()),
        requested="auto" if site.num_experts else requested,
    )
    if entry is None and site.num_experts:
        return None
    binder.choices.append(choice)
    if entry is None:
        if binder.config.fallback == "error" and not loads_dense:
            _refuse(build, choice)
        return None
    kernel: type[QuantKernel] = classes[entry]
    return kernel


def _refuse(build: Builder, choice: Choice) -> None:
    binder = build.binder
    told = "; ".join(f"{name}: {', '.join(why)}" for name, why in choice.rejected.items())
    device = binder.labels[0] if binder.labels else "this device"
    raise ConfigError(
        f"no kernel on {device} for {choice.site} ({told or 'no plugin offers one'}), and "
        f"fallback=error forbids the core's {REFERENCE}: allow it with fallback=reference, or "
        "serve the unquantised model"
    )


def _described(scheme: QuantScheme) -> str:
    """A scheme in words: "int4 group 32 with offsets, int8 activations"."""
    words: list[str] = [scheme.weight]
    words.append({0: "per output", -1: "per tensor"}.get(scheme.group, f"group {scheme.group}"))
    if scheme.offset:
        words.append("with offsets")
    if scheme.reordered:
        words.append("reordered")
    if scheme.activation:
        words.append(f"and {scheme.activation} activations ({scheme.activation_scale})")
    return " ".join(words)
