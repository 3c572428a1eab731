// The attention instruction: which rows and which part of their context each thread takes, and how
// partial results come together.
// Part of the unit of program.cpp.
#pragma once
#include "walk.hpp"
#include "widened.hpp"

namespace ip {
namespace {

// Running result of one tile while its chunks are merged in order.
struct Running {
    float out[WIDE * 512], peak[WIDE], sum[WIDE];

    void merge(const Partial& part, int64_t count, int64_t dim, bool first) {
        if (first) {
            std::memcpy(out, part.out, sizeof(float) * count * dim);
            std::memcpy(peak, part.peak, sizeof(float) * count);
            std::memcpy(sum, part.sum, sizeof(float) * count);
            return;
        }
        for (int64_t m = 0; m < count; m++) {
            const float top = std::max(peak[m], part.peak[m]);
            const float a = peak[m] == top ? 1.0f : std::exp(peak[m] - top);
            const float b = part.peak[m] == top ? 1.0f : std::exp(part.peak[m] - top);
            const vf va = vset(a), vb = vset(b);
            for (int64_t d = 0; d < dim; d += 16) {
                float* o = out + m * dim + d;
                vstore(o, vfma(vload(o), va, vmul(vload(part.out + m * dim + d), vb)));
            }
            sum[m] = sum[m] * a + part.sum[m] * b;
            peak[m] = top;
        }
    }
};

// One (sequence, KV head, tile of rows).
struct Tile {
    int64_t seq, head, begin, end;  // tokens of context it reads
    Rows rows;
    int64_t most;  // rows that tiles of this sequence hold
    int64_t chunks() const { return (end + CHUNK - 1) / CHUNK - begin / CHUNK; }
};

Partial partial_at(float* base, int64_t dim, int64_t rows) {
    return {base, base + rows * dim, base + rows * dim + rows};
}

int64_t partial_floats(int64_t dim) { return TILE * (dim + 2); }

// Whether a sequence's rows of this step go through matrix tiles.
bool is_wide(const Walk& w, const Instruction& i, int64_t length) {
#ifdef IP_TILES
    return w.program.tiles && length >= TILED_FROM && has_tiles(w.program.caches[i.layer]);
#else
    return (void)w, (void)i, (void)length, false;
#endif
}

// Calls `visit(tile, split, number of its first partial)` for every tile of the step, in one order.
template <class Visit>
void each_tile(const Walk& w, const Instruction& i, Visit visit) {
    const int64_t group = i.heads / i.kv_heads, limit = w.program.partial_floats / partial_floats(i.dim_v);
    int64_t partials = 0;
    for (int64_t s = 0; s < w.step.seqs; s++) {
        const int64_t first = w.step.query_start[s], length = w.step.query_start[s + 1] - first;
        const int64_t position = w.step.seq_lens[s] - length, count = length * group;
        const int64_t most = is_wide(w, i, length) ? WIDE : TILE;
        for (int64_t h = 0; h < i.kv_heads; h++)
            for (int64_t r = 0; r < count; r += most) {
                const int64_t rows = std::min<int64_t>(most, count - r);
                const int64_t low = position + r / group, high = position + (r + rows - 1) / group;
                int64_t begin = i.window ? std::max<int64_t>(0, low - i.window + 1) : 0;
                begin -= begin % w.program.caches[i.layer].block_size;
                Tile tile{s, h, begin, high + 1,
                          {at(w, i.src, first, i.src_at) + h * group * i.dim,
                           w.program.buffers[i.src].pitch, group, position, r, rows},
                          most};
                const int64_t chunks = tile.chunks();
                const bool split = length <= TILE && chunks > 1 && partials + chunks <= limit;
                visit(tile, split, partials);
                if (split) partials += chunks;
            }
    }
}

// What a tile reads in one of its chunks.
Context context_of(const Walk& w, const Instruction& i, const Tile& t, int64_t chunk) {
    const Cache& cache = w.program.caches[i.layer];
    const Group& group = w.step.groups[i.group];
    const int64_t begin = std::max(t.begin, (t.begin / CHUNK + chunk) * CHUNK);
    const int64_t end = std::min(t.end, (t.begin / CHUNK + chunk + 1) * CHUNK), size = cache.block_size;
    return {&cache, group.tables + t.seq * group.width + begin / size, t.head, begin / size, (end + size - 1) / size};
}

void chunk_of(const Walk& w, const Instruction& i, const Tile& t, const Context& now, const Context& next,
              Partial out, Widened& widened, int thread) {
    const AttentionSpec spec{i.heads, float(i.scale), float(i.softcap), i.window};
    if (now.cache->coded()) {
        const Context wide = widened.of(now, next, t.seq);
        return attend_tile(spec, t.rows, wide, wide, w.program.scratch[thread], out);
    }
#ifdef IP_TILES
    if (t.most == WIDE) return attend_wide(spec, t.rows, now, w.program.scratch[thread], out);
#endif
    attend_tile(spec, t.rows, now, next, w.program.scratch[thread], out);
}

void store(const Walk& w, const Instruction& i, const Tile& t, const Running& total) {
    for (int64_t m = 0; m < t.rows.count; m++) {
        const int64_t r = t.rows.start + m, token = w.step.query_start[t.seq] + r / t.rows.group;
        float* out = at(w, i.dst, token, i.dst_at) + (t.head * t.rows.group + r % t.rows.group) * i.dim_v;
        const vf inverse = vset(1.0f / total.sum[m]);
        for (int64_t d = 0; d < i.dim_v; d += 16)
            vstore(out + d, vmul(vload(total.out + m * i.dim_v + d), inverse));
    }
}

// A thread's next piece of attention, held back until it is known what comes after it.
struct Held {
    Tile tile;
    int64_t chunk;  // the one to compute, or -1: all of them, merged and stored
    Partial part;
    bool any = false;
};

// `next`: what is computed afterwards, null at the end.
void attend_held(const Walk& w, const Instruction& i, const Held& held, const Context* next, Widened& widened,
                 int thread) {
    const Tile& t = held.tile;
    if (!held.any) return;
    if (held.chunk >= 0) {
        const Context now = context_of(w, i, t, held.chunk);
        return chunk_of(w, i, t, now, next ? *next : now, held.part, widened, thread);
    }
    Running total;
    for (int64_t c = 0; c < t.chunks(); c++) {
        const bool last = c + 1 == t.chunks();
        const Context now = context_of(w, i, t, c);
        const Context later = !last ? context_of(w, i, t, c + 1) : next ? *next : now;
        chunk_of(w, i, t, now, later, held.part, widened, thread);
        total.merge(held.part, t.rows.count, i.dim_v, c == 0);
    }
    store(w, i, t, total);
}

void attend_pieces(const Walk& w, const Instruction& i, int thread) {
    int64_t item = 0;
    const int threads = w.pool.threads();
    uint8_t* own = w.program.scratch[thread];
    Held held;
    Widened widened(w.program.caches[i.layer], own + w.program.widened_at);
    auto hold = [&](const Tile& t, int64_t chunk, float* part) {
        if (item++ % threads != thread) return;
        const Context next = context_of(w, i, t, std::max<int64_t>(chunk, 0));
        attend_held(w, i, held, &next, widened, thread);
        held = {t, chunk, partial_at(part, i.dim_v, t.most), true};
    };
    each_tile(w, i, [&](const Tile& t, bool split, int64_t first) {
        const int64_t used = t.most == WIDE ? wide_scratch(i.dim) : attention_scratch(i.dim);
        if (!split) return hold(t, -1, (float*)(own + used));
        for (int64_t c = 0; c < t.chunks(); c++)
            hold(t, c, w.program.partials + (first + c) * partial_floats(i.dim_v));
    });
    attend_held(w, i, held, nullptr, widened, thread);
}

bool any_split(const Walk& w, const Instruction& i) {
    bool any = false;
    each_tile(w, i, [&](const Tile&, bool split, int64_t) { any |= split; });
    return any;
}

void merge(const Walk& w, const Instruction& i, int thread) {
    int64_t item = 0;
    each_tile(w, i, [&](const Tile& t, bool split, int64_t first) {
        if (!split || item++ % w.pool.threads() != thread) return;
        Running total;
        for (int64_t c = 0; c < t.chunks(); c++)
            total.merge(partial_at(w.program.partials + (first + c) * partial_floats(i.dim_v), i.dim_v, TILE),
                        t.rows.count, i.dim_v, c == 0);
        store(w, i, t, total);
    });
}

// Every thread calls it, and it may meet the others at a barrier.
void attend(const Walk& w, const Instruction& i, int thread) {
    attend_pieces(w, i, thread);
    if (any_split(w, i)) {  // every thread answers alike
        w.pool.barrier();
        merge(w, i, thread);
    }
}

}  // namespace
}  // namespace ip
