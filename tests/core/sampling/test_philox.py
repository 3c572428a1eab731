import numpy as np
import pytest

from inferplane.sampling.philox import philox4x32, uniforms

PI = ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0))
ONES = ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (*ONES, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (*PI, (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ],
)
def test_words_equal_the_published_vectors(counter, key, words) -> None:
    drawn = philox4x32(np.array(counter, np.uint32), np.array(key, np.uint32))
    assert drawn.tolist() == list(words)


def test_a_number_depends_on_its_own_seed_and_position_alone() -> None:
    seeds, positions = np.arange(50, dtype=np.uint64), np.arange(50, dtype=np.uint64) * 7
    together = uniforms(seeds, positions)
    apart = [uniforms(seeds[i : i + 1], positions[i : i + 1])[0] for i in range(50)]
    assert together.tolist() == apart
    assert len(set(apart)) == 50


def test_both_halves_of_seed_and_position_count() -> None:
    high = np.array([1 << 40], np.uint64)
    zero = np.zeros(1, np.uint64)
    assert len({float(uniforms(s, p)[0]) for s in (zero, high) for p in (zero, high)}) == 4


def test_numbers_are_even_and_below_one() -> None:
    drawn = uniforms(np.full(100_000, 42, np.uint64), np.arange(100_000, dtype=np.uint64))
    assert drawn.min() >= 0.0 and drawn.max() < 1.0
    counts = np.histogram(drawn, bins=16, range=(0.0, 1.0))[0]
    chi_squared = ((counts - 6250.0) ** 2 / 6250.0).sum()
    assert chi_squared < 37.7  # p = 0.001 at 15 degrees of freedom
