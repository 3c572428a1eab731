// The interpreter: each thread walks the whole list over its own share of every instruction.
#include "program.hpp"

namespace ip {
namespace {

constexpr int64_t FEW_ROWS = 4;  // below, preparing inputs in every thread beats a barrier

struct Walk {
    Pool& pool;
    const Program& program;
    const Step& step;
};

struct Span {
    int64_t first, last;
};

Span share(int64_t items, int thread, int threads) {
    return {items * thread / threads, items * (thread + 1) / threads};
}

int64_t rows_of(const Instruction& i, const Step& s) { return i.per_sample ? s.samples : s.tokens; }

float* at(const Walk& w, int64_t buffer, int64_t row, int64_t column) {
    const Buffer& b = w.program.buffers[buffer];
    return b.data + row * b.pitch + column;
}

void embed(const Walk& w, const Instruction& i, int thread) {
    const Span rows = share(w.step.tokens, thread, w.pool.threads());
    for (int64_t t = rows.first; t < rows.last; t++) {
        float* out = at(w, i.dst, t, i.dst_at);
        unpack_row(Kind(i.kind), i.weight, i.k, w.step.token_ids[t], i.weight_scale, out);
        if (i.scale != 1.0)
            for (int64_t d = 0; d < i.k; d++) out[d] *= float(i.scale);
    }
}

// One row of a linear's input: norm or gate, then the type the kernel reads.
void prepare_row(const Walk& w, const Instruction& i, int64_t row, float* temporary, uint8_t* out) {
    const float* x = at(w, i.src, row, i.src_at);
    switch (i.prologue) {
        case RMS: rms_norm(x, i.norm, i.k, float(i.eps), temporary); x = temporary; break;
        case SILU_MUL: gated<true>(x, i.k, temporary); x = temporary; break;
        case GELU_MUL: gated<false>(x, i.k, temporary); x = temporary; break;
        default: break;
    }
    convert_row(Kind(i.kind), x, i.k, out);
}

// Shares of whole panel pairs, so that a panel's arithmetic is the same for any thread count.
Span panels_of(const Walk& w, const Instruction& i, int thread) {
    const int64_t panels = (i.n + 15) / 16;
    const Span pairs = share((panels + 1) / 2, thread, w.pool.threads());
    return {pairs.first * 2, std::min(pairs.last * 2, panels)};
}

// Where this thread's share of the next linear begins; its own weights where there is none.
Ahead next_weights(const Walk& w, const Instruction& here, int thread) {
    const Instruction* next = &here + 1;
    const Instruction* end = w.program.instructions + w.program.count;
    while (next < end && next->op != LINEAR) next++;
    if (next == end) next = &here;
    const int64_t stride = panel_bytes(Kind(next->kind), next->k);
    return {next->weight + panels_of(w, *next, thread).first * stride, stride, 0};
}

// The input of a linear in turns. Few rows are prepared by each thread for itself; of a lone turn each
// thread prepares some rows and lays all of them out; of many turns each thread makes some.
const uint8_t* prepare(const Walk& w, const Instruction& i, int64_t rows, int thread) {
    const int64_t pitch = input_bytes(Kind(i.kind), i.k), most = TURN;
    const int threads = w.pool.threads();
    float* temporary = (float*)w.program.scratch[thread];
    uint8_t* plain = w.program.scratch[thread] + (i.k * 4 + 63) / 64 * 64;
    uint8_t* own = plain + TURN * pitch;
    auto laid = [&](const uint8_t* from, int64_t count, uint8_t* to) {
        interleave(from, pitch, pitch / 4, count, (uint32_t*)to);
    };
    if (rows < FEW_ROWS) {
        for (int64_t r = 0; r < rows; r++) prepare_row(w, i, r, temporary, plain + r * pitch);
        if (rows == 1) return plain;
        laid(plain, rows, own);
        return own;
    }
    if (rows <= most) {
        const Span mine = share(rows, thread, threads);
        for (int64_t r = mine.first; r < mine.last; r++)
            prepare_row(w, i, r, temporary, w.program.shared + r * pitch);
        w.pool.barrier();
        laid(w.program.shared, rows, own);
        return own;
    }
    const Span mine = share((rows + most - 1) / most, thread, threads);
    for (int64_t r = mine.first * most; r < std::min(mine.last * most, rows); r += most) {
        const int64_t count = std::min(most, rows - r);
        for (int64_t m = 0; m < count; m++) prepare_row(w, i, r + m, temporary, plain + m * pitch);
        laid(plain, count, w.program.shared + r * pitch);
    }
    w.pool.barrier();
    return w.program.shared;
}

void linear(const Walk& w, const Instruction& i, int thread) {
    const int64_t rows = rows_of(i, w.step);
    const uint8_t* x = prepare(w, i, rows, thread);
    const Epilogue e{at(w, i.dst, 0, i.dst_at), w.program.buffers[i.dst].pitch, i.n,
                     i.weight_scale, i.bias, i.add != 0};
    const Span panels = panels_of(w, i, thread);
    matmul(Kind(i.kind), i.weight, x, i.k, rows, panels.first, panels.last, next_weights(w, i, thread), e);
}

void norm(const Walk& w, const Instruction& i, int thread) {
    const Span rows = share(rows_of(i, w.step), thread, w.pool.threads());
    float* temporary = (float*)w.program.scratch[thread];
    for (int64_t r = rows.first; r < rows.last; r++) {
        float* out = at(w, i.dst, r, i.dst_at);
        rms_norm(at(w, i.src, r, i.src_at), i.norm, i.n, float(i.eps), i.add ? temporary : out);
        if (i.add)
            for (int64_t d = 0; d < i.n; d++) out[d] += temporary[d];
    }
}

void rotary(const Walk& w, const Instruction& i, int thread) {
    const Cache& cache = w.program.caches[i.layer];
    const Group& group = w.step.groups[i.group];
    const Span rows = share(w.step.tokens, thread, w.pool.threads());
    for (int64_t t = rows.first; t < rows.last; t++) {
        float* q = at(w, i.src, t, i.src_at);
        float* k = q + i.heads * i.dim;
        float* v = k + i.kv_heads * i.dim;
        const int64_t p = w.step.positions[t] * (i.rotary / 2);
        for (int64_t h = 0; h < i.heads + i.kv_heads; h++) {
            const float* weight = h < i.heads ? i.norm : i.norm_k;
            if (weight) rms_norm(q + h * i.dim, weight, i.dim, float(i.eps), q + h * i.dim);
            if (i.rotary) rotate(q + h * i.dim, i.cos + p, i.sin + p, i.rotary);
        }
        for (int64_t h = 0; h < i.kv_heads; h++)
            write_token(cache, group.slots[t], h, k + h * i.dim, v + h * i.dim_v);
    }
}

// Running result of one tile while its chunks are merged in order.
struct Running {
    float out[TILE * 512], peak[TILE], sum[TILE];

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
    int64_t chunks() const { return (end + CHUNK - 1) / CHUNK - begin / CHUNK; }
};

Partial partial_at(float* base, int64_t dim) {
    return {base, base + TILE * dim, base + TILE * dim + TILE};
}

int64_t partial_floats(int64_t dim) { return TILE * (dim + 2); }

// Calls `visit(tile, split, number of its first partial)` for every tile of the step, in one order.
template <class Visit>
void each_tile(const Walk& w, const Instruction& i, Visit visit) {
    const int64_t group = i.heads / i.kv_heads, limit = w.program.partial_floats / partial_floats(i.dim_v);
    int64_t partials = 0;
    for (int64_t s = 0; s < w.step.seqs; s++) {
        const int64_t first = w.step.query_start[s], length = w.step.query_start[s + 1] - first;
        const int64_t position = w.step.seq_lens[s] - length, count = length * group;
        for (int64_t h = 0; h < i.kv_heads; h++)
            for (int64_t r = 0; r < count; r += TILE) {
                const int64_t rows = std::min<int64_t>(TILE, count - r);
                const int64_t low = position + r / group, high = position + (r + rows - 1) / group;
                int64_t begin = i.window ? std::max<int64_t>(0, low - i.window + 1) : 0;
                begin -= begin % w.program.caches[i.layer].block_size;
                Tile tile{s, h, begin, high + 1,
                          {at(w, i.src, first, i.src_at) + h * group * i.dim,
                           w.program.buffers[i.src].pitch, group, position, r, rows}};
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
    return {&cache, group.tables + t.seq * group.width, t.head, begin / size, (end + size - 1) / size};
}

void chunk_of(const Walk& w, const Instruction& i, const Tile& t, const Context& now, const Context& next,
              Partial out, int thread) {
    const AttentionSpec spec{i.heads, float(i.scale), float(i.softcap), i.window};
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
void attend_held(const Walk& w, const Instruction& i, const Held& held, const Context* next, int thread) {
    const Tile& t = held.tile;
    if (!held.any) return;
    if (held.chunk >= 0) {
        const Context now = context_of(w, i, t, held.chunk);
        return chunk_of(w, i, t, now, next ? *next : now, held.part, thread);
    }
    Running total;
    for (int64_t c = 0; c < t.chunks(); c++) {
        const bool last = c + 1 == t.chunks();
        const Context now = context_of(w, i, t, c);
        const Context later = !last ? context_of(w, i, t, c + 1) : next ? *next : now;
        chunk_of(w, i, t, now, later, held.part, thread);
        total.merge(held.part, t.rows.count, i.dim_v, c == 0);
    }
    store(w, i, t, total);
}

void attend(const Walk& w, const Instruction& i, int thread) {
    int64_t item = 0;
    const int threads = w.pool.threads();
    float* own = (float*)(w.program.scratch[thread] + attention_scratch(i.dim));
    Held held;
    auto hold = [&](const Tile& t, int64_t chunk, float* part) {
        if (item++ % threads != thread) return;
        const Context next = context_of(w, i, t, std::max<int64_t>(chunk, 0));
        attend_held(w, i, held, &next, thread);
        held = {t, chunk, partial_at(part, i.dim_v), true};
    };
    each_tile(w, i, [&](const Tile& t, bool split, int64_t first) {
        if (!split) return hold(t, -1, own);
        for (int64_t c = 0; c < t.chunks(); c++)
            hold(t, c, w.program.partials + (first + c) * partial_floats(i.dim_v));
    });
    attend_held(w, i, held, nullptr, thread);
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
            total.merge(partial_at(w.program.partials + (first + c) * partial_floats(i.dim_v), i.dim_v),
                        t.rows.count, i.dim_v, c == 0);
        store(w, i, t, total);
    });
}

void argmax(const Walk& w, const Instruction& i, int thread) {
    const Span rows = share(w.step.samples, thread, w.pool.threads());
    for (int64_t r = rows.first; r < rows.last; r++) {
        const float* x = at(w, i.src, r, i.src_at);
        float top = -std::numeric_limits<float>::infinity();
        int64_t best = 0, j = 0;
        bool broken = false;
        for (; j + 16 <= i.n; j += 16) {
            const vf v = vload(x + j);
            broken |= vnan(v);
            if (vabove(v, vset(top)))
                for (int64_t c = j; c < j + 16; c++)
                    if (x[c] > top) top = x[c], best = c;
        }
        for (; j < i.n; j++) {
            broken |= x[j] != x[j];
            if (x[j] > top) top = x[j], best = j;
        }
        w.step.ids[r] = broken || std::isinf(top) ? -1 : int32_t(best);
    }
}

template <class F>
void each_row(const Walk& w, const Instruction& i, int thread, F f) {
    const Span rows = share(rows_of(i, w.step), thread, w.pool.threads());
    for (int64_t r = rows.first; r < rows.last; r++) {
        const int64_t source = i.op == SELECT ? w.step.sample_rows[r] : r;
        const float* x = at(w, i.src, source, i.src_at);
        float* y = at(w, i.dst, r, i.dst_at);
        for (int64_t d = 0; d < i.n; d++) y[d] = f(x[d], y[d]);
    }
}

void execute(const Walk& w, const Instruction& i, int thread) {
    const float f = float(i.scale);
    switch (i.op) {
        case EMBED: return embed(w, i, thread);
        case LINEAR: return linear(w, i, thread);
        case NORM: return norm(w, i, thread);
        case ROTARY: return rotary(w, i, thread);
        case ATTEND:
            attend(w, i, thread);
            if (any_split(w, i)) {  // every thread answers alike
                w.pool.barrier();
                merge(w, i, thread);
            }
            return;
        case ARGMAX: return argmax(w, i, thread);
        case SELECT:
        case COPY: return each_row(w, i, thread, [](float x, float) { return x; });
        case SCALE: return each_row(w, i, thread, [f](float x, float) { return x * f; });
        case SOFTCAP: return each_row(w, i, thread, [f](float x, float) { return f * std::tanh(x / f); });
        case ADD: return each_row(w, i, thread, [](float x, float y) { return y + x; });
    }
}

}  // namespace

void run(Pool& pool, const Program& program, const Step& step) {
    Walk walk{pool, program, step};
    pool.run(
        [](void* context, int thread) {
            const Walk& w = *(const Walk*)context;
            for (int64_t n = 0; n < w.program.count; n++) {
                execute(w, w.program.instructions[n], thread);
                w.pool.barrier();
            }
        },
        &walk);
}

}  // namespace ip
