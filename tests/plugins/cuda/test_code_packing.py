"""The order in which the kernels read codes, against a plain reading of its description."""

import torch

from inferplane_cuda.quantization.packing import (
    pack_bytes,
    pack_nibbles,
    pack_scales,
    padded_outputs,
)

_OUTPUTS, _INPUTS = 40, 192


def _value_at(tile, chunk, unit, lane, j, h, e):
    """(output, input) by the words of `stream.cu`."""
    g, t = divmod(lane, 4)
    return 16 * tile + 8 * h + g, 64 * chunk + 32 * unit + 8 * t + 4 * j + e


def test_every_nibble_lies_where_its_lane_reads_it() -> None:
    codes = torch.randint(-8, 8, (_OUTPUTS, _INPUTS), dtype=torch.int8)
    words = pack_nibbles(codes)
    assert words.shape == (padded_outputs(_OUTPUTS) // 16, _INPUTS // 64, 32, 4)
    for tile, chunk, lane, unit, j, h, e in _places(tiles=3):
        word = int(words[tile, chunk, lane, 2 * unit + j]) & 0xFFFFFFFF
        output, at = _value_at(tile, chunk, unit, lane, j, h, e)
        want = int(codes[output, at]) if output < _OUTPUTS else 0
        assert (word >> (4 * (2 * (e // 2) + h + 4 * (e % 2)))) & 15 == want + 8


def test_every_byte_lies_where_its_lane_reads_it() -> None:
    codes = torch.randint(-128, 128, (_OUTPUTS, _INPUTS), dtype=torch.int8)
    packed = pack_bytes(codes)
    assert packed.shape == (padded_outputs(_OUTPUTS) // 16, _INPUTS // 64, 2, 32, 16)
    for tile, chunk, lane, unit, j, h, e in _places(tiles=3):
        output, at = _value_at(tile, chunk, unit, lane, j, h, e)
        want = int(codes[output, at]) if output < _OUTPUTS else 0
        assert int(packed[tile, chunk, unit, lane, 8 * j + 4 * h + e]) == want + 128


def test_fp8_codes_keep_their_bits() -> None:
    codes = torch.randn(32, 64).to(torch.float8_e4m3fn)
    packed = pack_bytes(codes)
    assert sorted(packed.flatten().tolist()) == sorted(codes.view(torch.uint8).flatten().tolist())
    assert packed[0, 0, 0, 0, :4].tolist() == codes.view(torch.uint8)[0, :4].tolist()


def test_scales_of_two_tiles_and_a_group_lie_together() -> None:
    scales = torch.rand(_OUTPUTS, 3)
    packed = pack_scales(scales, torch.Size([_OUTPUTS]))
    assert packed.shape == (padded_outputs(_OUTPUTS) // 32, 3, 32)
    assert packed[1, 2, 7] == scales[39, 2]


def test_one_scale_for_all_outputs_serves_each() -> None:
    packed = pack_scales(torch.tensor([[3.0]]), torch.Size([_OUTPUTS]))
    assert packed.flatten()[:_OUTPUTS].eq(3.0).all()


def _places(tiles):
    return (
        (tile, chunk, lane, unit, j, h, e)
        for tile in range(tiles) for chunk in range(_INPUTS // 64) for lane in (0, 5, 31)
        for unit in range(2) for j in range(2) for h in range(2) for e in range(4)
    )  # fmt: skip
