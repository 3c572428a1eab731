"""Selection asks in a fixed order and explains every candidate it did not take."""

from __future__ import annotations

import pytest

from inferplane.errors import ConfigError
from inferplane.interfaces import Reasons
from inferplane.registry import Entry
from inferplane.selection import choose


def entry(name: str, owner: str = "acme", priority: int = 0) -> Entry:
    return Entry(name, f"inferplane_{owner}.x:{name}", owner, (), priority)


def fits(candidate: Entry) -> Reasons:
    return ()


def test_the_highest_priority_wins_and_equal_ones_go_by_name() -> None:
    candidates = [entry("slow"), entry("b", priority=5), entry("a", priority=5)]
    winner, choice = choose("attention", "layer", candidates, fits)
    assert winner is not None and winner.name == "a"
    assert set(choice.rejected) == {"b", "slow"}


def test_a_preferred_name_or_owner_goes_before_priority() -> None:
    candidates = [entry("fast", priority=50), entry("quiet", owner="other")]
    for preferred in ("quiet", "other"):
        winner, _ = choose("attention", "layer", candidates, fits, preferred=(preferred,))
        assert winner is not None and winner.name == "quiet"


def test_a_refused_candidate_is_passed_over_with_all_its_reasons() -> None:
    candidates = [entry("fast", priority=9), entry("plain")]
    why = ("head_dim 96: needs a multiple of 64", "no softcap")
    winner, choice = choose(
        "attention", "layer", candidates, lambda e: why if e.name == "fast" else ()
    )
    assert winner is not None and winner.name == "plain"
    assert choice.rejected == {"fast": why}
    assert (choice.kind, choice.site, choice.name, choice.owner) == (
        "attention",
        "layer",
        "plain",
        "acme",
    )


def test_the_reference_is_what_remains_when_all_are_refused() -> None:
    winner, choice = choose("op", "rms_norm/1", [entry("rms_norm/1")], lambda e: ("no",))
    assert winner is None and choice.name == "reference" and choice.owner == "inferplane"
    assert choice.rejected == {"acme": ("no",)}


def test_a_request_is_kept_although_others_are_preferred() -> None:
    candidates = [entry("fast", priority=9), entry("plain")]
    winner, _ = choose("attention", "x", candidates, fits, ("fast",), requested="plain")
    assert winner is not None and winner.name == "plain"


def test_a_refused_request_is_an_error_with_the_reasons() -> None:
    with pytest.raises(ConfigError, match="'fast' was asked for.*x: no such instruction"):
        choose(
            "attention",
            "site",
            [entry("fast"), entry("plain")],
            lambda e: ("x: no such instruction",) if e.name == "fast" else (),
            requested="fast",
        )


def test_an_unknown_request_lists_what_is_known() -> None:
    with pytest.raises(ConfigError, match="no attention 'flsh'.*fast, plain, reference"):
        choose("attention", "site", [entry("fast"), entry("plain")], fits, requested="flsh")


def test_the_reference_can_be_requested_over_fitting_candidates() -> None:
    winner, choice = choose("attention", "s", [entry("fast")], fits, requested="reference")
    assert winner is None and "fast" in choice.rejected


def test_kernels_of_one_owner_are_told_apart() -> None:
    two = [
        Entry("linear/1", "inferplane_acme.a:linear", "acme", (), 2),
        Entry("linear/1", "inferplane_acme.b:linear", "acme", (), 1),
    ]
    _, choice = choose("op", "linear/1", two, lambda e: (e.target,))
    assert len(choice.rejected) == 2
