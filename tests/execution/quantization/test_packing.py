"""Codes in 32-bit words survive the way there and back, also across the edges of words."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inferplane.quantization.packing import pack, packed_words, unpack


@settings(deadline=None, max_examples=60)
@given(
    bits=st.integers(1, 8), rows=st.integers(1, 4), count=st.integers(1, 130), seed=st.integers(0)
)
def test_codes_survive_packing(bits: int, rows: int, count: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed % 2**63)
    codes = torch.randint(0, 2**bits, (rows, count), generator=random, dtype=torch.uint8)
    words = pack(codes, bits)
    assert words.dtype == torch.int32 and words.shape == (rows, packed_words(count, bits))
    assert torch.equal(unpack(words, bits, count), codes)


@settings(deadline=None, max_examples=60)
@given(bits=st.integers(1, 8), values=st.lists(st.integers(0, 255), min_size=1, max_size=70))
def test_words_are_one_long_number_lowest_bits_first(bits: int, values: list[int]) -> None:
    codes = [value % 2**bits for value in values]
    number = sum(code << (bits * place) for place, code in enumerate(codes))
    words = pack(torch.tensor([codes], dtype=torch.uint8), bits)[0].tolist()
    assert sum((word & 0xFFFFFFFF) << (32 * place) for place, word in enumerate(words)) == number
