"""Laws of workloads: the same for everybody, with the lengths that were promised."""

import statistics

from inferplane.cli.bench.workloads import Workload, fixed, mixed, online


def test_one_seed_gives_one_workload() -> None:
    assert mixed(seed=3) == mixed(seed=3)
    assert mixed(seed=3) != mixed(seed=4)
    assert online(seed=3) == online(seed=3)


def test_a_fixed_workload_has_one_shape() -> None:
    workload = fixed(8, 512, 128)
    assert {(len(p.ids), p.num_output) for p in workload.prompts} == {(512, 128)}
    assert (workload.num_input, workload.num_output) == (8 * 512, 8 * 128)


def test_a_mixed_workload_stays_in_its_range() -> None:
    workload = mixed(200, (25, 256), concurrency=32)
    lengths = [n for p in workload.prompts for n in (len(p.ids), p.num_output)]
    assert (min(lengths) >= 25, max(lengths) <= 256) == (True, True)
    assert (min(lengths) < 40, max(lengths) > 240, workload.concurrency) == (True, True, 32)


def test_online_lengths_are_near_those_of_conversations() -> None:
    workload = online(4000, rate=2.0)
    inputs = statistics.mean(len(p.ids) for p in workload.prompts)
    outputs = statistics.mean(p.num_output for p in workload.prompts)
    assert abs(inputs - 203) < 12
    assert abs(outputs - 172) < 10


def test_online_arrivals_follow_the_rate_and_never_go_back() -> None:
    arrivals = [p.arrives_s for p in online(4000, rate=2.0).prompts]
    assert arrivals[0] == 0.0
    assert arrivals == sorted(arrivals)
    assert abs(4000 / arrivals[-1] - 2.0) < 0.1


def test_rate_zero_means_all_at_once() -> None:
    assert {p.arrives_s for p in online(10, rate=0.0).prompts} == {0.0}


def test_a_cap_on_lengths_holds() -> None:
    workload = online(500, longest=64)
    assert max(max(len(p.ids), p.num_output) for p in workload.prompts) == 64


def test_ids_are_ordinary_tokens() -> None:
    ids = [i for p in mixed().prompts for i in p.ids]
    assert min(ids) >= 5
    assert max(ids) <= 40_000


def test_rates_change_arrivals_only() -> None:
    def without_times(workload: Workload) -> list[tuple[tuple[int, ...], int]]:
        return [(p.ids, p.num_output) for p in workload.prompts]

    assert without_times(online(50, rate=1.0)) == without_times(online(50, rate=8.0))


def test_ids_are_folded_into_a_smaller_vocabulary() -> None:
    workload = mixed(8)
    folded = workload.within(384)
    assert max(i for p in folded.prompts for i in p.ids) < 384
    assert min(i for p in folded.prompts for i in p.ids) >= 5
    assert workload.within(50_000) == workload
