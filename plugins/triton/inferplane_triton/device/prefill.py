"""Attention of chunks of tokens over their paged context, prompts and decodes alike.

FlashAttention-2's loop (Dao 2023, arXiv 2307.08691) over tiles of the block table; a tile of
queries holds all heads that share a KV head, so each key is loaded once for them.
"""

import triton
import triton.language as tl

from inferplane_triton.device.decode import attend_tile, finish_rows


@triton.jit
def attend_range(
    q, k_cache, v_cache, k_scales, v_scales, table, peak, total, acc, begin, end, position, head,
    scale, softcap, KV_HEADS: tl.constexpr, HEAD: tl.constexpr, K_PAD: tl.constexpr,
    V_HEAD: tl.constexpr, V_PAD: tl.constexpr, PAGE: tl.constexpr, K_BLOCK: tl.constexpr,
    V_BLOCK: tl.constexpr, TILE: tl.constexpr, WINDOW: tl.constexpr, CAP: tl.constexpr,
    MASKED: tl.constexpr, UPCAST: tl.constexpr, LARGEST: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """Online softmax over cached positions begin..end; MASKED where some row sees only part."""
    col = tl.arange(0, TILE)
    k_dims, v_dims = tl.arange(0, K_PAD), tl.arange(0, V_PAD)
    for near in range(begin, end, TILE):
        place = near + col
        if MASKED:
            inside = place < end
            block = tl.load(table + place // PAGE, mask=inside, other=0).to(tl.int64)
            k_mask = inside[:, None] & (k_dims < HEAD)[None, :]
            v_mask = inside[:, None] & (v_dims < V_HEAD)[None, :]
            seen = inside[None, :] & (place[None, :] <= position[:, None])
            if WINDOW:
                seen = seen & (place[None, :] > position[:, None] - WINDOW)
        else:
            block = tl.load(table + place // PAGE).to(tl.int64)
            k_mask = (col >= 0)[:, None] & (k_dims < HEAD)[None, :]
            v_mask = (col >= 0)[:, None] & (v_dims < V_HEAD)[None, :]
            seen = k_mask
        line = place % PAGE * KV_HEADS + head
        k_row, v_row = block * K_BLOCK + line * HEAD, block * V_BLOCK + line * V_HEAD
        k_scale, v_scale = scale, scale
        if LARGEST:
            present = place < end
            k_scale = tl.load(k_scales + block * (K_BLOCK // 2) + line, mask=present, other=0.0)
            v_scale = tl.load(v_scales + block * (V_BLOCK // 2) + line, mask=present, other=0.0)
            k_scale, v_scale = k_scale.to(tl.float32), v_scale.to(tl.float32)
        k = tl.load(k_cache + k_row[:, None] + k_dims[None, :], mask=k_mask, other=0)
        v = tl.load(v_cache + v_row[:, None] + v_dims[None, :], mask=v_mask, other=0)
        peak, total, acc = attend_tile(
            q, k, v, k_scale, v_scale, peak, total, acc, seen, scale, softcap, CAP, MASKED, UPCAST,
            LARGEST, PTX)  # fmt: skip
    return peak, total, acc


@triton.jit(do_not_specialize=["table_stride"])
def prefill_tiles(
    q_ptr, k_cache, v_cache, k_scales, v_scales, out_ptr, tiles, tables, sinks_ptr, scale, softcap,
    table_stride, q_stride, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr,
    HEAD: tl.constexpr, K_PAD: tl.constexpr,
    V_HEAD: tl.constexpr, V_PAD: tl.constexpr, PAGE: tl.constexpr, K_BLOCK: tl.constexpr,
    V_BLOCK: tl.constexpr, TILE: tl.constexpr, WINDOW: tl.constexpr, CAP: tl.constexpr,
    SINKS: tl.constexpr, UPCAST: tl.constexpr, LARGEST: tl.constexpr, PTX: tl.constexpr = False,
):  # fmt: skip
    """Program (head, tile). A tile: seq, first token row, tokens, position of the first token.

    Keys and values of this step are in the caches before the launch, which lie as for `decode`.
    """
    head = tl.program_id(0)
    tile = tiles + tl.program_id(1) * 4
    seq = tl.load(tile)
    if seq < 0:
        return
    first_row, tokens, first = tl.load(tile + 1), tl.load(tile + 2), tl.load(tile + 3)
    row = tl.arange(0, ROWS)
    token, member = row // GROUP, row % GROUP
    valid = token < tokens
    position = first + tl.minimum(token, tokens - 1)
    k_dims, v_dims = tl.arange(0, K_PAD), tl.arange(0, V_PAD)
    token_row = (first_row + token).to(tl.int64)
    q_at = token_row * q_stride + (head * GROUP + member) * HEAD
    q = tl.load(q_ptr + q_at[:, None] + k_dims[None, :],
                mask=valid[:, None] & (k_dims < HEAD)[None, :], other=0.0)  # fmt: skip
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, V_PAD], tl.float32)
    table = tables + seq.to(tl.int64) * table_stride
    end = first + tokens
    if WINDOW:
        begin = tl.maximum(first - WINDOW + 1, 0) // TILE * TILE
    else:
        begin = (first + 1) // TILE * TILE  # up to here every row sees every key
        peak, total, acc = attend_range(
            q, k_cache, v_cache, k_scales, v_scales, table, peak, total, acc, 0, begin, position,
            head, scale, softcap, KV_HEADS, HEAD, K_PAD, V_HEAD, V_PAD, PAGE, K_BLOCK, V_BLOCK,
            TILE, WINDOW, CAP, False, UPCAST, LARGEST, PTX)  # fmt: skip
    peak, total, acc = attend_range(
        q, k_cache, v_cache, k_scales, v_scales, table, peak, total, acc, begin, end, position,
        head, scale, softcap, KV_HEADS, HEAD, K_PAD, V_HEAD, V_PAD, PAGE, K_BLOCK, V_BLOCK, TILE,
        WINDOW, CAP, True, UPCAST, LARGEST, PTX)  # fmt: skip
    sink = peak
    if SINKS:
        sink = tl.load(sinks_ptr + head * GROUP + member).to(tl.float32) * 1.4426950408889634
    out = finish_rows(acc, peak, total, sink, SINKS)
    out_at = (token_row * KV_HEADS + head) * GROUP + member
    tl.store(out_ptr + out_at[:, None] * V_HEAD + v_dims[None, :],
             out.to(out_ptr.dtype.element_ty),
             mask=valid[:, None] & (v_dims < V_HEAD)[None, :])  # fmt: skip
