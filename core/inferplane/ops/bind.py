"""Bind each op of a model once to the kernel chosen for its place; nothing is searched later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from inferplane.errors import ConfigError
from inferplane.interfaces import Capabilities, Choice, EngineConfig, Kernel, OpSite, Reasons
from inferplane.ops.catalogue import find_op
from inferplane.registry import Catalogue, Entry
from inferplane.selection import choose

__all__ = ["Binder"]


class Binder:
    """Chooses kernels for op sites of one model on one device."""

    def __init__(
        self,
        catalogue: Catalogue,
        labels: Sequence[str],
        caps: Capabilities,
        config: EngineConfig,
    ) -> None:
        """`labels` = the device's name and the labels it answers to."""
        self.catalogue = catalogue
        self.labels = tuple(labels)
        self.caps = caps
        self.config = config
        self.choices: list[Choice] = []
        """One for each distinct site, in order of first use."""
        self.fallbacks: dict[str, int] = {}
        """op -> places of the model that use the core's reference."""
        self._bound: dict[tuple[str, str, tuple[tuple[str, int], ...]], _Bound] = {}
        self._loaded: dict[Entry, Kernel | str] = {}

    def op(self, name: str, dtype: str, **dims: int) -> Callable[..., Any]:
        """The kernel for one place, as a plain callable with the op's signature.

        Raises UnknownNameError for an unknown op; ConfigError when the kernel the user asked for
        is refused, or when only the reference is left and `fallback` is "error".
        """
        key = (name, dtype, tuple(sorted(dims.items())))
        bound = self._bound.get(key)
        if bound is None:
            bound = self._bound[key] = self._bind(OpSite(name, dtype, dims))
        if bound.is_reference:
            self.fallbacks[name] = self.fallbacks.get(name, 0) + 1
        return bound.run

    def fusion(self, name: str, dtype: str, **dims: int) -> Callable[..., Any] | None:
        """A plugin's kernel for an optional op; None = none fits, call the ops it fuses."""
        key = (name, dtype, tuple(sorted(dims.items())))
        bound = self._bound.get(key)
        if bound is None:
            bound = self._bound[key] = self._bind(OpSite(name, dtype, dims))
        return None if bound.is_reference else bound.run

    def _bind(self, site: OpSite) -> _Bound:
        reference = find_op(site.op).reference()
        sizes = ", ".join(f"{key}={value}" for key, value in site.dims.items())
        entry, choice = choose(
            "op",
            f"{site.op} {site.dtype} {sizes}".rstrip(),
            self.catalogue["kernels"].candidates(site.op, self.labels),
            lambda candidate: self._reasons(candidate, site),
            preferred=self.caps.prefer.get(site.op, ()),
            requested=self.config.kernels.get(site.op, "auto"),
        )
        required = find_op(site.op).required
        if required or entry is not None:
            self.choices.append(choice)
        if entry is not None:
            kernel = self._loaded[entry]
            assert isinstance(kernel, Kernel)
            return _Bound(kernel.run, False)
        if required and self.config.fallback == "error" and choice.rejected is not None:
            told = "; ".join(f"{name}: {', '.join(why)}" for name, why in choice.rejected.items())
            raise ConfigError(
                f"no kernel for {choice.site} ({told or 'no plugin offers one'}), and "
                "fallback=error forbids the core's reference; allow it with fallback=reference"
            )
        return _Bound(reference, True)

    def _reasons(self, entry: Entry, site: OpSite) -> Reasons:
        if entry not in self._loaded:
            self._loaded[entry] = _load(entry)
        kernel = self._loaded[entry]
        return (kernel,) if isinstance(kernel, str) else kernel.supports(site, self.caps)


class _Bound:
    __slots__ = ("is_reference", "run")

    def __init__(self, run: Callable[..., Any], is_reference: bool) -> None:
        self.run = run
        self.is_reference = is_reference


def _load(entry: Entry) -> Kernel | str:
    """The kernel, or why it cannot be imported."""
    try:
        found = entry.load()
    except Exception as error:  # a kernel's module may need anything; the others must go on
        return f"cannot be imported: {type(error).__name__}: {error}"
    return found if isinstance(found, Kernel) else Kernel(found, _always)


def _always(site: OpSite, caps: Capabilities) -> Reasons:
    return ()
