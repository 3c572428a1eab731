"""Ops are bound once, to the kernel that selection finds, and references in use are counted."""

from __future__ import annotations

import pytest

from inferplane.errors import ConfigError, UnknownNameError
from inferplane.interfaces import Capabilities, EngineConfig, Kernel, OpSite, Reasons
from inferplane.ops.bind import Binder
from inferplane.ops.catalogue import OPS
from inferplane.ops.reference.norm import rms_norm
from inferplane.registry import Catalogue, Entry

CAPS = Capabilities()


def plain(*args: object) -> str:
    return "plain"


def multiple_of_8(site: OpSite, caps: Capabilities) -> Reasons:
    return () if site.dims["H"] % 8 == 0 else (f"H {site.dims['H']}: needs a multiple of 8",)


choosy = Kernel(plain, multiple_of_8)


def binder(*kernels: tuple[str, str], caps: Capabilities = CAPS, **config: object) -> Binder:
    lines = [
        ("kernels", Entry("rms_norm/1", f"{__name__}:{target}", owner, ("acme",)))
        for owner, target in kernels
    ]
    engine = EngineConfig("m", **config)  # type: ignore[arg-type]
    return Binder(Catalogue(lines), ("acme",), caps, engine)


def bound(held: Binder, **dims: int) -> object:
    return held.op("rms_norm/1", "float32", **dims)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets name this module; importlib mode does not put it into sys.modules by itself."""
    import sys
    import types

    module = types.ModuleType(__name__)
    module.__dict__.update(plain=plain, choosy=choosy)
    monkeypatch.setitem(sys.modules, __name__, module)


def test_without_kernels_the_reference_is_bound_and_counted() -> None:
    held = binder()
    assert bound(held, H=8) is rms_norm and bound(held, H=8) is rms_norm
    assert held.fallbacks == {"rms_norm/1": 2}
    assert [choice.name for choice in held.choices] == ["reference"]


def test_a_plain_function_fits_everywhere() -> None:
    held = binder(("acme", "plain"))
    assert bound(held, H=7) is plain
    assert held.fallbacks == {} and held.choices[0].owner == "acme"


def test_a_kernel_is_asked_for_each_size_and_its_refusal_is_kept() -> None:
    held = binder(("acme", "choosy"))
    assert bound(held, H=16) is plain and bound(held, H=12) is rms_norm
    assert held.choices[1].rejected == {"acme": ("H 12: needs a multiple of 8",)}
    assert held.choices[1].site == "rms_norm/1 float32 H=12"


def test_a_kernel_that_cannot_be_imported_leaves_the_others() -> None:
    held = binder(("acme", "absent"), ("other", "plain"))
    assert bound(held, H=8) is plain
    assert "cannot be imported: AttributeError" in held.choices[0].rejected["acme"][0]


def test_the_users_choice_of_owner_holds_or_is_an_error() -> None:
    two = (("acme", "choosy"), ("other", "plain"))
    assert bound(binder(*two, kernels={"rms_norm/1": "other"}), H=8) is plain
    with pytest.raises(ConfigError, match="'acme' was asked for.*multiple of 8"):
        bound(binder(*two, kernels={"rms_norm/1": "acme"}), H=7)


def test_strict_runs_refuse_the_reference() -> None:
    with pytest.raises(ConfigError, match="fallback=error forbids the core's reference"):
        bound(binder(fallback="error"), H=8)


def test_a_preferred_owner_goes_first() -> None:
    caps = Capabilities(prefer={"rms_norm/1": ("other",)})
    held = binder(("acme", "plain"), ("other", "choosy"), caps=caps)
    bound(held, H=8)
    assert held.choices[0].owner == "other"


def test_an_unknown_op_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="no op 'rms_norm/9'.*rms_norm/1"):
        binder().op("rms_norm/9", "float32")


def test_every_op_of_the_catalogue_has_a_reference() -> None:
    for info in OPS.values():
        assert callable(info.reference()), info.name
        assert info.name.partition("/")[2].isdigit()


def test_an_optional_fusion_is_none_without_a_kernel_and_never_an_error() -> None:
    held = binder(fallback="error")
    assert held.fusion("norm_rotary/1", "float32", H=8) is None
    assert held.choices == [] and held.fallbacks == {}
