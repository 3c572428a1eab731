"""Paging wastes the rest of each last block and nothing else."""

from random import Random

MEAN_PROMPT, MEAN_OUTPUT = 161, 338
"""Tokens, as in conversations of ShareGPT (Kwon et al. 2023, figure 11)."""
SPREAD = 1.0
"""Standard deviation of the logarithm of both."""
LIMIT = 0.04


def lengths(rng: Random, mean: float) -> int:
    """Log-normal with that mean."""
    return max(1, min(2000, round(mean * rng.lognormvariate(-(SPREAD**2) / 2, SPREAD))))


def test_less_than_four_percent_is_wasted_on_chats(bench):
    rng = Random(7)
    b = bench(pool=4000, max_seqs=64, settings={"max_waiting": 300})
    for number in range(300):
        b.add(f"r{number}", lengths(rng, MEAN_PROMPT), lengths(rng, MEAN_OUTPUT), eos=())
    allocated = used = 0
    while b.scheduler.num_unfinished:
        assert b.step()
        slots = b.scheduler.slots()
        allocated, used = allocated + slots[0], used + slots[1]
    assert 0 < 1 - used / allocated < LIMIT
    assert b.blocks.num_free == b.blocks.usable
