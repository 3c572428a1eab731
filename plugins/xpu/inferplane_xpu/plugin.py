"""What this distribution offers: register lines only."""

from inferplane.hookspecs import Register, hookimpl

INTERFACE_VERSION = (1, 0)


@hookimpl
def register_platforms(register: Register) -> None:
    register("xpu", "inferplane_xpu.platform:Xpu")
