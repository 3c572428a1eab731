import pytest

from inferplane.errors import RegistrationError, UnknownNameError
from inferplane.registry import KINDS, Catalogue, Entry, Registry


def test_two_owners_of_one_name_are_named_in_the_error() -> None:
    registry = Registry("platforms")
    registry.add(Entry("acme", "a:b", "alice"))
    with pytest.raises(RegistrationError, match="bob and alice"):
        registry.add(Entry("acme", "c:d", "bob"))


def test_a_second_owner_for_other_devices_is_welcome() -> None:
    registry = Registry("models")
    registry.add(Entry("Llama", "a:b", "core"))
    registry.add(Entry("Llama", "c:d", "acme", on=("acme",)))
    assert registry.get("Llama", ("acme",)).owner == "acme"
    assert registry.get("Llama", ("other",)).owner == "core"


def test_kernels_may_have_many_owners() -> None:
    registry = Registry("kernels")
    for owner, priority in (("b", 0), ("a", 0), ("c", 5)):
        registry.add(Entry("rms_norm/1", "m:f", owner, priority=priority))
    assert [entry.owner for entry in registry.candidates("rms_norm/1")] == ["c", "a", "b"]


def test_a_specific_entry_goes_before_a_general_one_of_higher_priority() -> None:
    registry = Registry("kernels")
    registry.add(Entry("op/1", "m:f", "general", priority=9))
    registry.add(Entry("op/1", "m:f", "specific", on=("acme",)))
    assert [e.owner for e in registry.candidates("op/1", ("acme",))] == ["specific", "general"]
    assert [e.owner for e in registry.candidates("op/1", ("other",))] == ["general"]


def test_an_unknown_name_lists_the_known_ones() -> None:
    registry = Registry("platforms")
    registry.add(Entry("acme", "a:b", "alice"))
    with pytest.raises(UnknownNameError, match="known: acme"):
        registry.get("other")
    with pytest.raises(UnknownNameError, match="known: none"):
        Registry("models").get("Llama")


@pytest.mark.parametrize("target", ["", "module", ":attribute", "module:"])
def test_a_target_without_module_or_attribute_is_refused(target) -> None:
    with pytest.raises(RegistrationError, match="module:attribute"):
        Registry("models").add(Entry("x", target, "alice"))


def test_an_entry_loads_its_target() -> None:
    assert Entry("x", "collections:OrderedDict", "core").load().__name__ == "OrderedDict"


def test_a_catalogue_survives_the_trip_to_another_process() -> None:
    lines = [(kind, Entry(f"name of {kind}", "a:b", "alice", ("x",), 3)) for kind in KINDS]
    copy = Catalogue(Catalogue(lines).lines())
    assert copy.lines() == lines
