// The interpreter: each thread walks the whole list over its own share of every instruction.
#include "attend.hpp"

namespace ip {
namespace {

constexpr int64_t FEW_ROWS = 4;  // below, preparing inputs in every thread beats a barrier

void embed(const Walk& w, const Instruction& i, int thread) {
    const Span rows = share(w.step.tokens, thread, w.pool.threads());
    for (int64_t t = rows.first; t < rows.last; t++) {
        float* out = at(w, i.dst, t, i.dst_at);
        unpack_row(Kind(i.kind), i.weight, i.k, w.step.token_ids[t], i.weight_scale, out);
        if (i.scale != 1.0)
            for (int64_t d = 0; d < i.k; d++) out[d] *= float(i.scale);
    }
}

bool takes_tiles(const Walk& w, const Instruction& i, int64_t rows) {
#ifdef IP_TILES
    return w.program.tiles && rows >= TILED_FROM && has_tiles(Kind(i.kind), i.rounded != 0);
#else
    return (void)w, (void)i, (void)rows, false;
#endif
}

// Whether a linear gates its own outputs. Fewer rows wait for memory, which likes one stream of weights.
bool gates(const Walk& w, const Instruction& i, int64_t rows) {
    return i.gated && rows >= 2 * TURN && !takes_tiles(w, i, rows) && !takes_tiles(w, (&i)[1], rows);
}

// Whether the linear before this one has gated its input.
bool is_fed(const Walk& w, const Instruction& i, int64_t rows) {
    return i.prologue >= SILU_MUL && &i != w.program.instructions && gates(w, (&i)[-1], rows);
}

// One row of a linear's input: norm or gate, then the type that kernels of `kind` read.
void prepare_row(const Walk& w, const Instruction& i, Kind kind, int64_t row, float* temporary, uint8_t* out) {
    const float* x = at(w, i.src, row, i.src_at);
    switch (is_fed(w, i, rows_of(i, w.step)) ? NONE : i.prologue) {
        case RMS: rms_norm(x, i.norm, i.k, float(i.eps), temporary); x = temporary; break;
        case SILU_MUL: gated<true>(x, i.k, temporary); x = temporary; break;
        case GELU_MUL: gated<false>(x, i.k, temporary); x = temporary; break;
        default: break;
    }
    convert_row(kind, x, i.k, out);
}

// Shares of whole panel pairs, so that a panel's arithmetic is the same for any thread count.
Span panels_of(const Walk& w, const Instruction& i, int thread) {
    if (gates(w, i, rows_of(i, w.step))) return share(i.n / 32, thread, w.pool.threads());
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
    const int64_t apart = gates(w, *next, rows_of(*next, w.step)) ? next->n / 32 * stride : stride;
    return {next->weight + panels_of(w, *next, thread).first * stride, apart, 0};
}

// The input of a linear in turns. Few rows are prepared by each thread for itself; of a lone turn each
// thread prepares some rows and lays all of them out; of many turns each thread makes some.
const uint8_t* prepare(const Walk& w, const Instruction& i, int64_t rows, int thread) {
    const int64_t pitch = input_bytes(Kind(i.kind), i.k), most = TURN;
    const int threads = w.pool.threads();
    if (is_fed(w, i, rows) && GatedEpilogue::laid(Kind(i.kind))) return (const uint8_t*)at(w, i.src, 0, 0);
    float* temporary = (float*)w.program.scratch[thread];
    uint8_t* plain = w.program.scratch[thread] + (i.k * 4 + 63) / 64 * 64;
    uint8_t* own = plain + TURN * pitch;
    auto laid = [&](const uint8_t* from, int64_t count, uint8_t* to) {
        interleave(from, pitch, pitch / 4, count, (uint32_t*)to);
    };
    if (rows < FEW_ROWS) {
        for (int64_t r = 0; r < rows; r++) prepare_row(w, i, Kind(i.kind), r, temporary, plain + r * pitch);
        if (rows == 1) return plain;
        laid(plain, rows, own);
        return own;
    }
    if (rows <= most) {
        const Span mine = share(rows, thread, threads);
        for (int64_t r = mine.first; r < mine.last; r++)
            prepare_row(w, i, Kind(i.kind), r, temporary, w.program.shared + r * pitch);
        w.pool.barrier();
        laid(w.program.shared, rows, own);
        return own;
    }
    const Span mine = share((rows + most - 1) / most, thread, threads);
    for (int64_t r = mine.first * most; r < std::min(mine.last * most, rows); r += most) {
        const int64_t count = std::min(most, rows - r);
        for (int64_t m = 0; m < count; m++)
            prepare_row(w, i, Kind(i.kind), r + m, temporary, plain + m * pitch);
        laid(plain, count, w.program.shared + r * pitch);
    }
    w.pool.barrier();
    return w.program.shared;
}

#ifdef IP_TILES
// The input of a linear by tiles: each thread makes some rows.
void prepare_tiles(const Walk& w, const Instruction& i, int64_t rows, int thread) {
    const TiledRows laid(Kind(i.kind), i.k, rows);
    float* temporary = (float*)w.program.scratch[thread];
    uint8_t* plain = w.program.scratch[thread] + (i.k * 4 + 63) / 64 * 64;
    const Span mine = share(rows, thread, w.pool.threads());
    for (int64_t r = mine.first; r < mine.last; r++) {
        prepare_row(w, i, laid.kind, r, temporary, plain);
        laid.place(plain, i.k, r, w.program.shared);
    }
    w.pool.barrier();
}
#endif

void linear(const Walk& w, const Instruction& i, int thread) {
    const int64_t rows = rows_of(i, w.step);
    const Epilogue e{at(w, i.dst, 0, i.dst_at), w.program.buffers[i.dst].pitch, i.n,
                     i.weight_scale, i.bias, i.add != 0};
    const Span panels = panels_of(w, i, thread);
#ifdef IP_TILES
    if (takes_tiles(w, i, rows)) {
        prepare_tiles(w, i, rows, thread);
        return tile_matmul(Kind(i.kind), i.weight, w.program.shared, i.k, rows, panels.first, panels.last,
                           next_weights(w, i, thread), e, w.program.scratch[thread]);
    }
#endif
    const uint8_t* x = prepare(w, i, rows, thread);
    if (gates(w, i, rows)) {
        const GatedEpilogue gated{(uint8_t*)e.out, e.pitch, i.n / 2, e.scale, e.bias, i.gated == SILU_MUL,
                                  Kind((&i)[1].kind)};
        return gated_matmul(Kind(i.kind), i.weight, x, i.k, rows, panels.first, panels.last,
                            next_weights(w, i, thread), gated);
    }
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
        case ATTEND: return attend(w, i, thread);
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
#ifdef IP_TILES
            give_back_tiles();
#endif
        },
        &walk);
}

}  // namespace ip
