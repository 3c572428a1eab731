// A decoder step as a flat list of instructions over f32 row buffers, walked by all threads.
// The Python compiler writes the list; `rows` of an instruction is the step's token or sampled count.
#pragma once
#include "attention.hpp"
#include "gated.hpp"
#include "pack.hpp"
#include "pool.hpp"
#include "tile_attention.hpp"

namespace ip {

enum Op : int32_t {
    EMBED = 0,    // dst = row token_ids[t] of a packed weight, times f[0]
    LINEAR = 1,   // dst (+)= prologue(src) times weight
    NORM = 2,     // dst (+)= rms_norm(src) over spans of width n
    ROTARY = 3,   // q, k of src: optional norm, rotation in place; k, v to the cache
    ATTEND = 4,   // dst = attention of q in src
    SELECT = 5,   // dst row r = src row rows_of_samples[r]
    ARGMAX = 6,   // ids[r] = lowest index of the largest of n; -1 where that is infinite or any is NaN
    SCALE = 7,    // dst = f[0] * src
    SOFTCAP = 8,  // dst = f[0] * tanh(src / f[0])
    ADD = 9,      // dst += src
    COPY = 10,    // dst = src
};

enum Prologue : int32_t { NONE = 0, RMS = 1, SILU_MUL = 2, GELU_MUL = 3 };

// Plain C layout, mirrored by ctypes; every field is 8 bytes.
struct Instruction {
    int64_t op;
    int64_t per_sample;  // rows = samples instead of tokens
    int64_t src, dst;    // buffer numbers
    int64_t src_at, dst_at;  // first column
    int64_t k, n;        // inputs, outputs (widths)
    int64_t kind, prologue, add;
    int64_t group, layer;            // attention: metadata group, cache number
    int64_t heads, kv_heads, dim, dim_v, rotary;
    int64_t window;
    int64_t rounded;                 // linear: its inputs are bf16 numbers
    int64_t gated;                   // linear: the next one takes all its outputs by the prologue SILU_MUL or GELU_MUL
    double scale, softcap, eps;
    const uint8_t* weight;
    const float *weight_scale, *bias, *norm, *norm_k;
    const float *cos, *sin;          // [positions][rotary/2]
};

struct Buffer {
    float* data;
    int64_t pitch;  // floats a row
};

struct Group {  // one KV group's step metadata
    const int32_t* tables;
    int64_t width;
    const int32_t* slots;
};

struct Step {
    int64_t tokens, seqs, samples;
    const int32_t *token_ids, *positions, *query_start, *seq_lens, *sample_rows;
    const Group* groups;
    int32_t* ids;  // [samples] results of ARGMAX
};

struct Program {
    const Instruction* instructions;
    int64_t count;
    const Buffer* buffers;
    const Cache* caches;
    uint8_t* shared;         // converted inputs of wide steps
    int64_t shared_bytes;
    uint8_t** scratch;       // one for each thread
    int64_t scratch_bytes;
    float* partials;         // chunks of long contexts
    int64_t partial_floats;
    int64_t widened_at;      // where in a thread's scratch chunks of a cache in 8 bits are widened to
    int64_t tiles;           // whether many rows may take the kernels for AMX tiles
};

// Working memory of a thread for linears of `rows` rows of up to `widest` inputs and heads of these sizes.
inline int64_t scratch_bytes(int64_t widest, int64_t rows, int64_t dim, int64_t dim_v) {
    const int64_t linear = (widest * 4 + 63) / 64 * 64 + 2 * TURN * input_bytes(F32, widest);
    const int64_t attention = attention_scratch(dim) + TILE * (dim_v + 2) * 4;
    const int64_t wide = wide_scratch(dim) + WIDE * (dim_v + 2) * 4;
    return std::max({linear, attention, tile_scratch_bytes(rows), wide}) + 4096;
}

// Bytes of converted inputs of a linear, however they are laid.
inline int64_t shared_bytes(Kind kind, int64_t k, int64_t rows) {
    return std::max(rows * input_bytes(kind, k), TiledRows(kind, k, rows).bytes());
}

void run(Pool& pool, const Program& program, const Step& step);

}  // namespace ip
