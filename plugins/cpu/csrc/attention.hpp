// Paged attention over a KV cache laid out as matrix panels, for decode and prefill alike.
//
// A block of `bs` tokens and one KV head holds
//   keys    [bs/16][H/c][16][c]     values  [Hv/16][bs/c][16][c]     c = 2 for bf16, 1 for f32
// or the codes of coded.hpp,
// so that scores = q K^T and output = p V both are panels of matmul.hpp. The context of a sequence
// is cut into chunks of CHUNK tokens whose partial results are merged in order: the arithmetic of a
// row depends on nothing but its own sequence (FlashAttention, arXiv 2205.14135; split-KV decode).
#pragma once
#include <algorithm>
#include <limits>
#include "coded.hpp"
#include "matmul.hpp"

namespace ip {

constexpr int64_t CHUNK = 512;  // tokens; a multiple of every block size
constexpr int TILE = 8;         // query rows (token, head) handled together

struct Cache {
    Kind kind;              // BF16, F32, or in 8 bits INT8, FP8
    uint8_t* keys;          // [blocks][KV heads][bs*H]
    uint8_t* values;        // [blocks][KV heads][bs*Hv]
    int64_t block_size, kv_heads, dim, dim_v;
    const float *key_scales, *value_scales;  // codes: [KV heads] as calibrated, or null

    bool coded() const { return kind == INT8 || kind == FP8; }
    Code code() const { return kind == INT8 ? Code::INT8 : Code::FP8; }
    int64_t bytes() const { return kind == BF16 ? 2 : 4; }
    int64_t block_bytes(int64_t width) const { return block_size * (coded() ? width + 2 : width * bytes()); }
    uint8_t* key_block(int64_t block, int64_t head) const {
        return keys + (block * kv_heads + head) * block_bytes(dim);
    }
    uint8_t* value_block(int64_t block, int64_t head) const {
        return values + (block * kv_heads + head) * block_bytes(dim_v);
    }
};

// Numbers of a token to their places in panels of pairs: keys [t/16][pair][t%16], values [d/16][t/2][d%16][t%2].
template <class Pair, class Number>
inline void place_pairs(const Cache& c, int64_t t, const Number* k, const Number* v, uint8_t* keys, uint8_t* values) {
    Pair* key = (Pair*)keys + t / 16 * c.dim * 8 + t % 16;
    for (int64_t d = 0; d < c.dim / 2; d++) key[d * 16] = ((const Pair*)k)[d];
    Number* value = (Number*)values + t / 2 * 32 + t % 2;
    for (int64_t d = 0; d < c.dim_v; d++) value[d / 16 * c.block_size * 16 + d % 16 * 2] = v[d];
}

inline void write_token(const Cache& c, int64_t slot, int64_t head, const float* k, const float* v) {
    const int64_t t = slot % c.block_size, b = slot / c.block_size;
    uint8_t *keys = c.key_block(b, head), *values = c.value_block(b, head);
    alignas(64) uint8_t k_room[1024], v_room[1024];
    if (c.kind == BF16) {
        convert_row(BF16, k, c.dim, k_room);
        convert_row(BF16, v, c.dim_v, v_room);
        place_pairs<uint32_t>(c, t, (const uint16_t*)k_room, (const uint16_t*)v_room, keys, values);
    } else if (c.coded()) {
        const float* k_scale = c.key_scales ? c.key_scales + head : nullptr;
        const float* v_scale = c.value_scales ? c.value_scales + head : nullptr;
        ((uint16_t*)(keys + c.block_size * c.dim))[t] = encode(c.code(), k, c.dim, k_scale, k_room);
        ((uint16_t*)(values + c.block_size * c.dim_v))[t] = encode(c.code(), v, c.dim_v, v_scale, v_room);
        place_pairs<uint16_t>(c, t, k_room, v_room, keys, values);
    } else {
        float* key = (float*)keys + t / 16 * c.dim * 16 + t % 16;
        for (int64_t d = 0; d < c.dim; d++) key[d * 16] = k[d];
        float* value = (float*)values + t * 16;
        for (int64_t d = 0; d < c.dim_v; d++) value[d / 16 * c.block_size * 16 + d % 16] = v[d];
    }
}

struct AttentionSpec {
    int64_t heads;  // query heads
    float scale;
    float softcap;   // 0 = off
    int64_t window;  // 0 = off
};

// Query rows of one sequence and KV head: row r is token r / group of the step, head r % group.
struct Rows {
    const float* q;       // first token's first head of this KV head
    int64_t q_pitch;      // floats between tokens
    int64_t group;        // query heads per KV head
    int64_t first;        // absolute position of row 0's token
    int64_t start, count; // rows [start, start+count)

    const float* row(int64_t m, int64_t dim) const {
        return q + (start + m) / group * q_pitch + (start + m) % group * dim;
    }
    int64_t position(int64_t m) const { return first + (start + m) / group; }
};

struct Partial {  // of each row: sum of p*v, largest score, sum of p
    float* out;   // [rows][Hv]
    float* peak;  // [rows]
    float* sum;   // [rows]
};

// What one piece of attention reads: blocks [first, last) of a sequence, of one KV head.
struct Context {
    const Cache* cache;
    const int32_t* table;  // from block `first` on
    int64_t head, first, last;
    const float *key_scales = nullptr, *value_scales = nullptr;  // of each token, where codes were widened

    int64_t panels() const { return (last - first) * (cache->block_size / 16); }
    // 16 tokens of keys; beyond the end the last ones
    const uint8_t* keys(int64_t panel) const {
        const int64_t each = cache->block_size / 16, at = std::min(panel, panels() - 1);
        const uint8_t* block = cache->key_block(table[at / each], head);
        return block + at % each * panel_bytes(cache->kind, cache->dim);
    }
    const uint8_t* values(int64_t block) const {
        return cache->value_block(table[std::min(block, last - first - 1)], head);
    }
};

// scores[M][CHUNK] = q K^T. Meanwhile the keys of what comes next are fetched.
template <int M, int NB>
IP_INLINE void score(const Context& now, const Context& next, int64_t panel, const uint32_t* q, float* scores) {
    const uint8_t* keys = now.keys(panel);
    const Ahead ahead{next.keys(panel), next.keys(panel + 1) - next.keys(panel), 64};
    vf acc[M * NB];
    for (vf& a : acc) a = vzero();
    tile<M, NB>(now.cache->kind, keys, now.keys(panel + 1) - keys, q, now.cache->dim, ahead, acc);
    for (int m = 0; m < M; m++)
        for (int n = 0; n < NB; n++) vstore(scores + m * CHUNK + (panel + n) * 16, acc[m * NB + n]);
}

// NB panels of output from dimension d on: the sum of p*v over all blocks. Fetches the values that come next.
template <int M, int NB>
IP_INLINE void weigh(const Context& now, const Context& next, int64_t d, const uint32_t* p, float* out) {
    const Cache& c = *now.cache;
    const int64_t stride = panel_bytes(c.kind, c.block_size), at = d / 16 * stride;
    const int64_t words = c.block_size / 4 * c.bytes();
    vf acc[M * NB];
    for (vf& a : acc) a = vzero();
    for (int64_t b = 0; b < now.last - now.first; b++)
        tile<M, NB>(c.kind, now.values(b) + at, stride, p + b * words * M, c.block_size,
                    Ahead{next.values(b) + at, stride, 64}, acc);
    for (int m = 0; m < M; m++)
        for (int n = 0; n < NB; n++) vstore(out + m * c.dim_v + d + n * 16, acc[m * NB + n]);
}

// Scores of one row at `position` over `span` tokens, of which `before` came earlier, to what they weigh.
IP_INLINE void soften(const AttentionSpec& spec, float* s, int64_t span, int64_t before, int64_t position,
                   float* row_peak, float* row_sum) {
    constexpr float NEVER = -std::numeric_limits<float>::infinity();
    if (spec.softcap > 0)
        for (int64_t t = 0; t < span; t++) s[t] = spec.softcap * std::tanh(s[t] / spec.softcap);
    // what this row may see of the chunk
    int64_t low = spec.window ? std::max<int64_t>(0, position - spec.window + 1 - before) : 0;
    int64_t high = std::min<int64_t>(span, position + 1 - before);
    for (int64_t t = 0; t < std::min(low, span); t++) s[t] = NEVER;
    for (int64_t t = std::max<int64_t>(high, 0); t < span; t++) s[t] = NEVER;
    vf top = vset(NEVER);
    for (int64_t t = 0; t < span; t += 16) top = vmax(top, vload(s + t));
    const float peak = vpeak(top);
    vf sum = vzero();
    const vf shift = vset(peak == NEVER ? 0.0f : peak);
    for (int64_t t = 0; t < span; t += 16) {
        vf e = vexp(vsub(vload(s + t), shift));
        vstore(s + t, e);
    }
    // e^-87 is not zero: what may not be seen weighs exactly nothing
    for (int64_t t = 0; t < std::min(low, span); t++) s[t] = 0.0f;
    for (int64_t t = std::max<int64_t>(high, 0); t < span; t++) s[t] = 0.0f;
    for (int64_t t = 0; t < span; t += 16) sum = vadd(sum, vload(s + t));
    *row_peak = peak;
    *row_sum = vsum(sum);
}

inline void scale_tokens(float* x, const float* scales, int64_t span) {
    for (int64_t t = 0; scales && t < span; t += 16) vstore(x + t, vmul(vload(x + t), vload(scales + t)));
}

// `next` is what this thread reads afterwards.
template <int M>
inline void attend_rows(const AttentionSpec& spec, const Rows& rows, const Context& now, const Context& next,
                        uint8_t* scratch, Partial result) {
    const Cache& c = *now.cache;
    const int64_t words = c.bytes() / 2;                   // words: of a pair of numbers
    uint32_t* q = (uint32_t*)scratch;                      // a turn of M rows
    float* scores = (float*)(scratch + TILE * c.dim * 4);  // [M][CHUNK]
    uint32_t* p = (uint32_t*)(scores + TILE * CHUNK);      // a turn of M rows
    for (int m = 0; m < M; m++) {
        const float* source = rows.row(m, c.dim);
        float* scaled = scores + m * CHUNK;
        for (int64_t d = 0; d < c.dim; d += 16) vstore(scaled + d, vmul(vload(source + d), vset(spec.scale)));
        if (c.kind == BF16) convert_row(BF16, scaled, c.dim, (uint8_t*)scaled);
    }
    interleave((const uint8_t*)scores, CHUNK * 4, c.dim / 2 * words, M, q);
    const int64_t span = now.panels() * 16, before = now.first * c.block_size;
    int64_t panel = 0;
    for (; panel + 2 <= now.panels(); panel += 2) score<M, 2>(now, next, panel, q, scores);
    if (panel < now.panels()) score<M, 1>(now, next, panel, q, scores);
    for (int m = 0; m < M; m++) {
        float* s = scores + m * CHUNK;
        scale_tokens(s, now.key_scales, span);
        soften(spec, s, span, before, rows.position(m), result.peak + m, result.sum + m);
        scale_tokens(s, now.value_scales, span);
        if (c.kind == BF16) convert_row(BF16, s, span, (uint8_t*)s);
    }
    interleave((const uint8_t*)scores, CHUNK * 4, span / 2 * words, M, p);
    int64_t d = 0;
    for (; d + 32 <= c.dim_v; d += 32) weigh<M, 2>(now, next, d, p, result.out);
    for (; d < c.dim_v; d += 16) weigh<M, 1>(now, next, d, p, result.out);
}

inline int64_t attention_scratch(int64_t dim) { return TILE * dim * 4 + TILE * CHUNK * 8; }

inline void attend_tile(const AttentionSpec& spec, const Rows& rows, const Context& now, const Context& next,
                        uint8_t* scratch, Partial out) {
    switch (rows.count) {
        case 1: return attend_rows<1>(spec, rows, now, next, scratch, out);
        case 2: return attend_rows<2>(spec, rows, now, next, scratch, out);
        case 3: return attend_rows<3>(spec, rows, now, next, scratch, out);
        case 4: return attend_rows<4>(spec, rows, now, next, scratch, out);
        case 5: return attend_rows<5>(spec, rows, now, next, scratch, out);
        case 6: return attend_rows<6>(spec, rows, now, next, scratch, out);
        case 7: return attend_rows<7>(spec, rows, now, next, scratch, out);
        default: return attend_rows<8>(spec, rows, now, next, scratch, out);
    }
}

}  // namespace ip
