"""Bias, penalties and masks on rows of float32 logits. R rows, N entries, V vocabulary."""

import triton
import triton.language as tl


@triton.jit
def copy_masked(logits, bitmask, out, stride, words, VOCAB: tl.constexpr, MASKED: tl.constexpr,
                BLOCK: tl.constexpr):  # fmt: skip
    """Program (row, part) copies BLOCK logits; -inf where the row's bit in i32[R,words] is 0."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(logits + row * stride + at, mask=at < VOCAB, other=0.0)
    if MASKED:
        word = tl.load(bitmask + row * words + at // 32, mask=at < VOCAB, other=0)
        x = tl.where((word >> (at % 32)) & 1 == 1, x, float("-inf"))
    tl.store(out + row * VOCAB + at, x, mask=at < VOCAB)


@triton.jit
def add_bias(out, rows, ids, values, number, VOCAB: tl.constexpr, BLOCK: tl.constexpr):
    """Program p adds BLOCK values; several for one logit add up."""
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    held = entry < number
    at = tl.load(rows + entry, mask=held, other=0).to(tl.int64) * VOCAB
    at += tl.load(ids + entry, mask=held, other=0)
    tl.atomic_add(out + at, tl.load(values + entry, mask=held, other=0.0), mask=held)


@triton.jit
def penalise(out, rows, ids, counts, penalties, number, VOCAB: tl.constexpr,
             BLOCK: tl.constexpr):  # fmt: skip
    """Program p: repetition, then frequency and presence, on BLOCK logits, each named once.

    `penalties` f32[R,3]: presence, frequency, repetition.
    """
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    held = entry < number
    row = tl.load(rows + entry, mask=held, other=0).to(tl.int64)
    at = row * VOCAB + tl.load(ids + entry, mask=held, other=0)
    presence = tl.load(penalties + row * 3, mask=held, other=0.0)
    frequency = tl.load(penalties + row * 3 + 1, mask=held, other=0.0)
    repetition = tl.load(penalties + row * 3 + 2, mask=held, other=1.0)
    count = tl.load(counts + entry, mask=held, other=0.0)
    x = tl.load(out + at, mask=held, other=0.0)
    x = tl.where(x > 0, tl.div_rn(x, repetition), x * repetition)
    x = x - frequency * count - tl.where(count > 0, presence, 0.0)
    tl.store(out + at, x, mask=held)
