"""Attention of one new token per sequence over its paged context, split over the context.

Flash-Decoding (Dao et al. 2023) with the query heads of a KV head packed into one tile. The work
list is made on the host: an item is a piece of one sequence's context. The program that arrives
last at a sequence combines the pieces, so one launch does everything, the KV write included.
"""

import triton
import triton.language as tl

from inferplane_triton.device.codes import code_rows, widen_codes
from inferplane_triton.device.order import meet_neighbours


@triton.jit
def finish_rows(acc, peak, total, sink, SINKS: tl.constexpr):
    """Normalise, with the sink's logit (base 2) joining the sum where the model has sinks."""
    if SINKS:
        top = tl.maximum(peak, sink)
        shrink = tl.exp2(peak - top)
        total = total * shrink + tl.exp2(sink - top)
        acc = acc * shrink[:, None]
    return acc / total[:, None]


@triton.jit
def cap_scores(scores, softcap, CAP: tl.constexpr):
    """softcap * tanh(s / softcap), on scores whose unit is log2."""
    if CAP:
        limit = softcap * 1.4426950408889634
        scores = limit * (2.0 * tl.sigmoid(2.0 * scores / limit) - 1.0)
    return scores


@triton.jit
def attend_tile(q, k, v, k_scale, v_scale, peak, total, acc, seen, scale, softcap,
                CAP: tl.constexpr, MASKED: tl.constexpr, UPCAST: tl.constexpr,
                LARGEST: tl.constexpr, PTX: tl.constexpr):  # fmt: skip
    """One step of the online softmax (base 2) over a tile of keys; `seen` masks scores.

    Keys and values may be codes (LARGEST, see `codes`) with a scale each, which then multiplies
    the key's scores and the value's weights.
    """
    # UPCAST: the interpreter's dot is wrong for bfloat16
    kind: tl.constexpr = tl.float32 if UPCAST else q.dtype
    q, k = q.to(kind), widen_codes(k, kind, LARGEST, PTX)
    v = widen_codes(v, kind, LARGEST, PTX)
    if LARGEST and PTX:
        # The compiler would move the widening behind on-chip memory, where a value's codes can only
        # be read one by one; it does not move it across this, which changes nothing.
        even, odd = tl.split(tl.reshape(v, (v.shape[0], v.shape[1] // 2, 2)))
        v = tl.reshape(tl.join(even, odd), v.shape)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    if LARGEST:
        scores *= k_scale[None, :]
    scores = cap_scores(scores, softcap, CAP)
    if MASKED:
        scores = tl.where(seen, scores, float("-inf"))
    top = tl.maximum(peak, tl.max(scores, axis=1))
    base = tl.where(top == float("-inf"), 0.0, top) if MASKED else top
    weights = tl.exp2(scores - base[:, None])
    shrink = tl.exp2(peak - base)
    total = total * shrink + tl.sum(weights, axis=1)
    acc = acc * shrink[:, None]
    if LARGEST:
        if kind == tl.float16:  # small weights times small scales would be beyond its range
            v = (v.to(tl.float32) * v_scale[:, None]).to(kind)
        else:
            weights *= v_scale[None, :]
    acc = tl.dot(weights.to(v.dtype), v, acc, input_precision="ieee")
    return top, total, acc


@triton.jit
def store_rows(acc, peak, total, out_ptr, sinks_ptr, head, row, dims, seq, KV_HEADS: tl.constexpr,
               GROUP: tl.constexpr, V_HEAD: tl.constexpr, SINKS: tl.constexpr):  # fmt: skip
    """Normalise and store the query heads `row` of one KV head."""
    sink = peak
    if SINKS:
        sink = tl.load(sinks_ptr + head * GROUP + row, mask=row < GROUP, other=0.0)
        sink = sink.to(tl.float32) * 1.4426950408889634
    out = finish_rows(acc, peak, total, sink, SINKS).to(out_ptr.dtype.element_ty)
    at = (seq * KV_HEADS + head) * GROUP + row
    inside = (row < GROUP)[:, None] & (dims < V_HEAD)[None, :]
    tl.store(out_ptr + at[:, None] * V_HEAD + dims[None, :], out, mask=inside)


@triton.jit
def combine_pieces(part_ptr, stat_ptr, out_ptr, sinks_ptr, first, count, head, seq,
                   KV_HEADS: tl.constexpr, GROUP: tl.constexpr, MEMBERS: tl.constexpr,
                   V_HEAD: tl.constexpr, V_PAD: tl.constexpr, SINKS: tl.constexpr):  # fmt: skip
    """Merge the pieces first..first+count of one sequence and KV head, and store the result.

    Eight at a time, so that their loads wait together.
    """
    row, dims = tl.arange(0, MEMBERS), tl.arange(0, V_PAD)
    peak = tl.full([MEMBERS], -1e30, tl.float32)
    total = tl.zeros([MEMBERS], tl.float32)
    acc = tl.zeros([MEMBERS, V_PAD], tl.float32)
    for begin in range(first, first + count, 8):
        piece = begin + tl.arange(0, 8)
        present = (piece < first + count)[:, None] & (row < GROUP)[None, :]
        at = (piece[:, None] * KV_HEADS + head) * GROUP + row[None, :]
        part_peak = tl.load(stat_ptr + at * 2, mask=present, other=-1e30, cache_modifier=".cg")
        part_total = tl.load(stat_ptr + at * 2 + 1, mask=present, other=0.0, cache_modifier=".cg")
        part = tl.load(part_ptr + at[:, :, None].to(tl.int64) * V_HEAD + dims[None, None, :],
                       mask=present[:, :, None] & (dims < V_HEAD)[None, None, :], other=0.0,
                       cache_modifier=".cg")  # fmt: skip
        top = tl.maximum(peak, tl.max(part_peak, axis=0))
        old, new = tl.exp2(peak - top), tl.exp2(part_peak - top[None, :])
        total = total * old + tl.sum(part_total * new, axis=0)
        acc = acc * old[:, None] + tl.sum(part * new[:, :, None], axis=0)
        peak = top
    store_rows(acc, peak, total, out_ptr, sinks_ptr, head, row, dims, seq, KV_HEADS, GROUP, V_HEAD,
               SINKS)  # fmt: skip


@triton.jit
def put_newest(new_ptr, cache, scales, static_ptr, row, scale_row, head, dims, SIZE: tl.constexpr,
               STATIC: tl.constexpr, LARGEST: tl.constexpr):  # fmt: skip
    """Store one head of a new key or value; returned as f32, as it is read from now on."""
    new = tl.load(new_ptr + dims, mask=dims < SIZE, other=0.0)
    if LARGEST:
        static = tl.load(static_ptr + head) if STATIC else 0.0
        codes, scale = code_rows(new.to(tl.float32), 0, static, STATIC, LARGEST)
        tl.store(scales + scale_row, scale.to(tl.bfloat16))
        kept = widen_codes(codes, tl.float32, LARGEST) * scale
    else:
        codes = new.to(cache.dtype.element_ty)
        kept = codes.to(tl.float32)
    tl.store(cache + row + dims, codes, mask=dims < SIZE)
    return kept


@triton.jit
def get_newest(cache, scales, row, scale_row, dims, SIZE: tl.constexpr, LARGEST: tl.constexpr):
    """One head of a key or value that another layer stored, f32."""
    kept = tl.load(cache + row + dims, mask=dims < SIZE, other=0)
    kept = widen_codes(kept, tl.float32, LARGEST)
    if LARGEST:
        kept *= tl.load(scales + scale_row).to(tl.float32)
    return kept


@triton.jit
def begin_with_newest(
    q, k_ptr, v_ptr, k_cache, v_cache, k_scales, v_scales, k_static, v_static, table, seq, head,
    position, scale, softcap, k_stride, v_stride, KV_HEADS: tl.constexpr,
    HEAD: tl.constexpr, K_PAD: tl.constexpr, V_HEAD: tl.constexpr, V_PAD: tl.constexpr,
    PAGE: tl.constexpr, K_BLOCK: tl.constexpr, V_BLOCK: tl.constexpr, CAP: tl.constexpr,
    NEW: tl.constexpr, K_STATIC: tl.constexpr, V_STATIC: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    """The newest token's score and value, which begin the softmax; NEW ones are stored first."""
    k_dims, v_dims = tl.arange(0, K_PAD), tl.arange(0, V_PAD)
    block = tl.load(table + position // PAGE).to(tl.int64)
    line = position % PAGE * KV_HEADS + head
    k_row, v_row = block * K_BLOCK + line * HEAD, block * V_BLOCK + line * V_HEAD
    k_line, v_line = block * (K_BLOCK // 2) + line, block * (V_BLOCK // 2) + line
    if NEW:
        k = put_newest(k_ptr + seq * k_stride + head * HEAD, k_cache, k_scales, k_static, k_row,
                       k_line, head, k_dims, HEAD, K_STATIC, LARGEST)  # fmt: skip
        v = put_newest(v_ptr + seq * v_stride + head * V_HEAD, v_cache, v_scales, v_static, v_row,
                       v_line, head, v_dims, V_HEAD, V_STATIC, LARGEST)  # fmt: skip
    else:
        k = get_newest(k_cache, k_scales, k_row, k_line, k_dims, HEAD, LARGEST)
        v = get_newest(v_cache, v_scales, v_row, v_line, v_dims, V_HEAD, LARGEST)
    score = tl.sum(q.to(tl.float32) * k[None, :], axis=1) * scale
    return cap_scores(score, softcap, CAP), v


@triton.jit
def meet_pieces(
    acc, peak, total, part_ptr, stat_ptr, arrivals, item, seq, head,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, V_HEAD: tl.constexpr,
    V_PAD: tl.constexpr,
):  # fmt: skip
    """Leave this piece for the others; whether this program is the last of them to arrive."""
    row, dims = tl.arange(0, ROWS), tl.arange(0, V_PAD)
    inside = (row < GROUP)[:, None] & (dims < V_HEAD)[None, :]
    at = (tl.load(item + 3) * KV_HEADS + head) * GROUP + row
    tl.store(part_ptr + at[:, None].to(tl.int64) * V_HEAD + dims[None, :], acc, mask=inside)
    tl.store(stat_ptr + at * 2, peak, mask=row < GROUP)
    tl.store(stat_ptr + at * 2 + 1, total, mask=row < GROUP)
    tl.debug_barrier()  # every thread's part is stored before this program is counted
    counter = arrivals + seq * KV_HEADS + head
    last = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == tl.load(item + 5) - 1
    if last:
        tl.store(counter, 0)  # ready for the next launch
    return last


@triton.jit
def attend_cached(
    q, k_cache, v_cache, k_scales, v_scales, table, peak, total, acc, start, stop, head, scale,
    softcap, KV_HEADS: tl.constexpr, HEAD: tl.constexpr, K_PAD: tl.constexpr, V_HEAD: tl.constexpr,
    V_PAD: tl.constexpr, PAGE: tl.constexpr, K_BLOCK: tl.constexpr, V_BLOCK: tl.constexpr,
    TILE: tl.constexpr, CAP: tl.constexpr, UPCAST: tl.constexpr, LARGEST: tl.constexpr,
    PTX: tl.constexpr,
):  # fmt: skip
    """Online softmax over cached positions start..stop, which every row sees."""
    col = tl.arange(0, TILE)
    k_dims, v_dims = tl.arange(0, K_PAD), tl.arange(0, V_PAD)
    for near in range(start, stop, TILE):
        place = near + col
        inside = place < stop
        block = tl.load(table + place // PAGE, mask=inside, other=0).to(tl.int64)
        line = place % PAGE * KV_HEADS + head
        k_row, v_row = block * K_BLOCK + line * HEAD, block * V_BLOCK + line * V_HEAD
        k_scale, v_scale = scale, scale
        if LARGEST:
            k_scale = tl.load(k_scales + block * (K_BLOCK // 2) + line, mask=inside, other=0.0)
            v_scale = tl.load(v_scales + block * (V_BLOCK // 2) + line, mask=inside, other=0.0)
            k_scale, v_scale = k_scale.to(tl.float32), v_scale.to(tl.float32)
        k = tl.load(k_cache + k_row[:, None] + k_dims[None, :],
                    mask=inside[:, None] & (k_dims < HEAD)[None, :], other=0)  # fmt: skip
        v = tl.load(v_cache + v_row[:, None] + v_dims[None, :],
                    mask=inside[:, None] & (v_dims < V_HEAD)[None, :], other=0)  # fmt: skip
        peak, total, acc = attend_tile(
            q, k, v, k_scale, v_scale, peak, total, acc, inside[None, :], scale, softcap, CAP, True,
            UPCAST, LARGEST, PTX)  # fmt: skip
    return peak, total, acc


@triton.jit(do_not_specialize=["table_stride"])
def decode_items(
    q_ptr, k_ptr, v_ptr, k_cache, v_cache, k_scales, v_scales, k_static, v_static, out_ptr,
    part_ptr, stat_ptr, arrivals, items, tables, sinks_ptr, scale, softcap, table_stride, q_stride,
    k_stride, v_stride,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, MEMBERS: tl.constexpr, ROWS: tl.constexpr,
    HEAD: tl.constexpr, K_PAD: tl.constexpr,
    V_HEAD: tl.constexpr, V_PAD: tl.constexpr, PAGE: tl.constexpr, K_BLOCK: tl.constexpr,
    V_BLOCK: tl.constexpr, TILE: tl.constexpr,
    NEW: tl.constexpr, CAP: tl.constexpr, SINKS: tl.constexpr, UPCAST: tl.constexpr,
    K_STATIC: tl.constexpr, V_STATIC: tl.constexpr, LARGEST: tl.constexpr,
    PTX: tl.constexpr = False, EARLY: tl.constexpr = False,
):  # fmt: skip
    """Program (head, item). An item: seq, start, stop, piece, first piece, pieces, position, 0.

    start..stop are cached positions; `position` >= 0 marks the sequence's last piece and is that
    of its new token, whose key and value come from k_ptr and v_ptr (NEW) and are written here, or
    lie in the cache already. Row `seq` of q, k, v and out belongs to the sequence. A block of the
    caches is contiguous [PAGE, KV_HEADS, head size], K_BLOCK or V_BLOCK elements behind the one
    before; a block of codes (LARGEST) has its scales [PAGE, KV_HEADS] behind it. STATIC ones of new
    keys and values are given for each head.
    """
    meet_neighbours(EARLY)
    head = tl.program_id(0)
    item = items + tl.program_id(1) * 8
    seq = tl.load(item)
    if seq < 0:
        return
    start, stop = tl.load(item + 1), tl.load(item + 2)
    position = tl.load(item + 6)
    row = tl.arange(0, ROWS)
    k_dims, v_dims = tl.arange(0, K_PAD), tl.arange(0, V_PAD)
    wide = seq.to(tl.int64)
    q_mask = (row < GROUP)[:, None] & (k_dims < HEAD)[None, :]
    q_at = (head * GROUP + row)[:, None] * HEAD + k_dims[None, :]
    q = tl.load(q_ptr + wide * q_stride + q_at, mask=q_mask, other=0.0)
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, V_PAD], tl.float32)
    table = tables + wide * table_stride
    if position >= 0:
        peak, value = begin_with_newest(
            q, k_ptr, v_ptr, k_cache, v_cache, k_scales, v_scales, k_static, v_static, table, wide,
            head, position, scale, softcap, k_stride, v_stride, KV_HEADS, HEAD, K_PAD, V_HEAD,
            V_PAD, PAGE, K_BLOCK, V_BLOCK, CAP, NEW, K_STATIC, V_STATIC, LARGEST)  # fmt: skip
        total = tl.full([ROWS], 1.0, tl.float32)
        acc += value[None, :]
    peak, total, acc = attend_cached(
        q, k_cache, v_cache, k_scales, v_scales, table, peak, total, acc, start, stop, head, scale,
        softcap, KV_HEADS, HEAD, K_PAD, V_HEAD, V_PAD, PAGE, K_BLOCK, V_BLOCK, TILE, CAP, UPCAST,
        LARGEST, PTX)  # fmt: skip
    count = tl.load(item + 5)
    if count == 1:
        store_rows(acc, peak, total, out_ptr, sinks_ptr, head, row, v_dims, wide, KV_HEADS, GROUP,
                   V_HEAD, SINKS)  # fmt: skip
    else:
        if meet_pieces(acc, peak, total, part_ptr, stat_ptr, arrivals, item, seq, head, KV_HEADS,
                       GROUP, ROWS, V_HEAD, V_PAD):  # fmt: skip
            combine_pieces(part_ptr, stat_ptr, out_ptr, sinks_ptr, tl.load(item + 4), count, head,
                           wide, KV_HEADS, GROUP, MEMBERS, V_HEAD, V_PAD, SINKS)  # fmt: skip
