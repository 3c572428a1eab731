"""Laws of the thread policy."""

from __future__ import annotations

import pytest

from inferplane.errors import ConfigError
from inferplane_cpu.host import Host
from inferplane_cpu.threads import plan_threads


def host(cores: int, siblings: int = 1, nodes: int = 1, quota: float = 0.0) -> Host:
    """Processors numbered as usual: siblings of core c are c, c + cores, …"""
    tuples = tuple(tuple(range(c, cores * siblings, cores)) for c in range(cores))
    share = cores // nodes
    places = {n: tuple(range(n * share, (n + 1) * share)) for n in range(nodes)}
    return Host("", frozenset(), "", tuple(range(cores * siblings)), tuples, places, quota, 0)


def test_few_cores_all_compute_and_nothing_is_pinned() -> None:
    assert plan_threads(host(2)) == plan_threads(host(2), "2")
    assert (plan_threads(host(2)).count, plan_threads(host(2)).cpus) == (2, ())


def test_from_four_cores_on_the_first_is_left_to_the_front_end() -> None:
    plan = plan_threads(host(8, siblings=2))
    assert plan.count == 7 and plan.cpus == tuple(range(1, 8))


def test_one_rank_stays_on_one_node() -> None:
    plan = plan_threads(host(16, nodes=2))
    assert plan.count == 8 and set(plan.cpus) == set(range(8))


def test_ranks_share_no_core() -> None:
    for ranks, machine in ((2, host(16, nodes=2)), (3, host(16, nodes=2)), (2, host(8))):
        plans = [plan_threads(machine, rank=rank, ranks=ranks) for rank in range(ranks)]
        cpus = [cpu for plan in plans for cpu in plan.cpus]
        assert len(cpus) == len(set(cpus)) and all(plan.count for plan in plans)


def test_under_a_quota_threads_follow_it_and_float() -> None:
    plan = plan_threads(host(64, quota=3.5))
    assert (plan.count, plan.cpus) == (3, ())


def test_the_option_decides() -> None:
    assert plan_threads(host(8), "3").count == 3
    assert plan_threads(host(4, siblings=2), "8").count == 8


@pytest.mark.parametrize("asked", ["0", "9", "-1", "many"])
def test_an_impossible_number_of_threads_is_refused(asked: str) -> None:
    with pytest.raises(ConfigError, match="may use 8 processors"):
        plan_threads(host(8), asked)


def test_the_environment_says_how_many() -> None:
    assert plan_threads(host(2)).environment()["OMP_NUM_THREADS"] == "2"
