"""Every door a plugin can come through. Nothing else lives here."""

from __future__ import annotations

from typing import Protocol

import pluggy

__all__ = ["Register", "hookimpl", "hookspec"]

hookspec = pluggy.HookspecMarker("inferplane")
hookimpl = pluggy.HookimplMarker("inferplane")


class Register(Protocol):
    """Offer one thing under a name.

    `target` is `"module:attribute"`, imported when it is first chosen; `on` holds platform names or
    labels it is meant for, `()` for all; among candidates the higher `priority` is asked first.
    """

    def __call__(
        self, name: str, target: str, *, on: tuple[str, ...] = (), priority: int = 0
    ) -> None: ...


@hookspec
def register_platforms(register: Register) -> None:
    """Offer hardware, a Platform class: `register("acme", "inferplane_acme.platform:Acme")`."""


@hookspec
def register_attention(register: Register) -> None:
    """Offer an AttentionBackend class: `register("flash", "inferplane_acme.flash:Flash")`."""


@hookspec
def register_kernels(register: Register) -> None:
    """Offer a function or Kernel under its op's name: `register("rms_norm/1", …, on=("acme",))`."""


@hookspec
def register_quantization_formats(register: Register) -> None:
    """Offer a QuantFormat class under the name checkpoints use: `register("gptq", …)`."""


@hookspec
def register_quantization_kernels(register: Register) -> None:
    """Offer a QuantKernel class: `register("acme_w4a16", …, on=("acme",))`."""


@hookspec
def register_models(register: Register) -> None:
    """Offer a Model class under config.json's architecture; with `on`, for those platforms."""


@hookspec
def register_routes(register: Register) -> None:
    """Offer a function `(ServerState) -> list[ScopedRoute]`, each route with a declared scope."""
