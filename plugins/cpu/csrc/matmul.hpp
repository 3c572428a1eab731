// Rows times packed weights. A weight [N,K] lies in panels of 16 outputs, streamed once:
//   f32   [N/16][K][16]
//   bf16  [N/16][K/2][16][2]
//   int8  [N/16][K/4][16][4] as unsigned w+128; scales f32[N] apart; input quantised per row
//   int8 in groups of 32  [N/16][K/32]{512 bytes, 16 f16 scales}
//   int4 in groups of 32  [N/16][K/32]{256 bytes of nibbles, 16 f16 scales, 16 f16 offsets};
//        w = scale * nibble + offset
// Inputs of the grouped kinds are quantised to 16 bits per 32, as two int8 halves: weight-only
// formats promise the arithmetic of unquantised inputs, which 8 bits do not keep.
// Knows nothing of threads: the caller gives a range of panels.
#pragma once
#include "simd.hpp"

namespace ip {

enum Kind : int32_t { F32 = 0, BF16 = 1, INT8 = 2, INT8_G32 = 3, INT4_G32 = 4 };

inline int64_t panel_bytes(Kind kind, int64_t k) {
    switch (kind) {
        case F32: return k * 64;
        case BF16: return k * 32;
        case INT8: return k * 16;
        case INT8_G32: return k / 32 * 544;
        default: return k / 32 * 320;
    }
}

// One row of input as the kernel of `kind` reads it. Bytes a row:
//   f32 4K | bf16 2K | int8 K, then f32 scale, i32 sum
//   groups: high halves K, low halves K, then K/32 scales f32, K/32 sums i32
inline int64_t input_bytes(Kind kind, int64_t k) {
    switch (kind) {
        case F32: return k * 4;
        case BF16: return k * 2;
        case INT8: return k + 64;
        default: return k * 2 + k / 32 * 8;
    }
}

inline void quantise_span(const float* x, int64_t n, int8_t* q, float* scale, int32_t* sum) {
    vf peak = vzero();
    for (int64_t i = 0; i < n; i += 16) peak = vmax(peak, vabs(vload(x + i)));
    const float top = vpeak(peak);
    const float inverse = top > 0 ? 127.0f / top : 0.0f;
    for (int64_t i = 0; i < n; i += 16) vstore_i8(q + i, vmul(vload(x + i), vset(inverse)));
    int32_t total = 0;
    for (int64_t i = 0; i < n; i++) total += q[i];
    *scale = top / 127.0f;
    *sum = total;
}

// 32 values as q * scale with q in 16 bits; q = 256 * high + low, both int8.
inline void quantise_wide(const float* x, int8_t* high, int8_t* low, float* scale, int32_t* sum) {
    const float top = vpeak(vmax(vabs(vload(x)), vabs(vload(x + 16))));
    const float inverse = top > 0 ? 32512.0f / top : 0.0f;
    vf total = vzero();
    for (int64_t i = 0; i < 32; i += 16) {
        const vf q = vround(vmul(vload(x + i), vset(inverse)));
        const vf h = vround(vmul(q, vset(1.0f / 256.0f)));
        vstore_i8(high + i, h);
        vstore_i8(low + i, vfma(h, vset(-256.0f), q));
        total = vadd(total, q);
    }
    *scale = top / 32512.0f;
    *sum = int32_t(vsum(total));
}

inline void convert_row(Kind kind, const float* x, int64_t k, uint8_t* out) {
    if (kind == F32) {
        std::memcpy(out, x, k * 4);
    } else if (kind == BF16) {
        for (int64_t i = 0; i < k; i += 16) vstore_bf16((uint16_t*)out + i, vload(x + i));
    } else if (kind == INT8) {
        quantise_span(x, k, (int8_t*)out, (float*)(out + k), (int32_t*)(out + k + 4));
    } else {
        float* scales = (float*)(out + k * 2);
        int32_t* sums = (int32_t*)(scales + k / 32);
        for (int64_t g = 0; g < k / 32; g++)
            quantise_wide(x + g * 32, (int8_t*)out + g * 32, (int8_t*)out + k + g * 32, scales + g,
                          sums + g);
    }
}

inline void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }
constexpr int64_t AHEAD = 4096;  // bytes; about one DRAM latency of streaming

// What to fetch while a tile is computed: one line of each stream for each line that is read.
struct Ahead {
    const uint8_t* start;
    int64_t stride;  // between the streams of neighbouring panels

    const uint8_t* at(int64_t panel, int64_t offset) const { return start + panel * stride + offset; }
};

// M rows against NB neighbouring panels; `acc` receives M*NB vectors of 16 outputs.
template <int M, int NB>
inline void tile_f32(const uint8_t* w, int64_t stride, const uint8_t* x, int64_t pitch, int64_t k,
                     Ahead ahead, vf* acc) {
    vf a[M][NB];
    for (int m = 0; m < M; m++)
        for (int b = 0; b < NB; b++) a[m][b] = vzero();
    for (int64_t i = 0; i < k; i++) {
        vf wv[NB];
        for (int b = 0; b < NB; b++) wv[b] = vload((const float*)(w + b * stride) + i * 16);
        prefetch(ahead.at(0, i * 64));
        for (int m = 0; m < M; m++) {
            const vf xv = vset(((const float*)(x + m * pitch))[i]);
            for (int b = 0; b < NB; b++) a[m][b] = vfma(wv[b], xv, a[m][b]);
        }
    }
    for (int m = 0; m < M; m++)
        for (int b = 0; b < NB; b++) acc[m * NB + b] = a[m][b];
}

// One chain of sums per output whatever M and NB are, so that a row's result does not depend on
// how many rows share the step.
template <int M, int NB>
inline void tile_bf16(const uint8_t* w, int64_t stride, const uint8_t* x, int64_t pitch, int64_t k,
                      Ahead ahead, vf* acc) {
    vf a[M][NB];
    for (int m = 0; m < M; m++)
        for (int b = 0; b < NB; b++) a[m][b] = vzero();
    for (int64_t i = 0; i < k / 2; i++) {
        for (int b = 0; b < NB; b++) prefetch(ahead.at(b, i * 64));
        for (int m = 0; m < M; m++) {
            const uint32_t xv = ((const uint32_t*)(x + m * pitch))[i];
            for (int b = 0; b < NB; b++)
                a[m][b] = dot_bf16(a[m][b], (const uint16_t*)(w + b * stride + i * 64), xv);
        }
    }
    for (int m = 0; m < M; m++)
        for (int b = 0; b < NB; b++) acc[m * NB + b] = a[m][b];
}

template <int M, int NB>
inline void tile_int8(const uint8_t* w, int64_t stride, const uint8_t* x, int64_t pitch, int64_t k,
                      Ahead ahead, vf* acc) {
    vi a[M][NB];
    for (int m = 0; m < M; m++)
        for (int b = 0; b < NB; b++) a[m][b] = izero();
    for (int64_t i = 0; i < k / 4; i++) {
        BytesU8 wv[NB];
        for (int b = 0; b < NB; b++) {
            wv[b] = load_u8(w + b * stride + i * 64);
            prefetch(ahead.at(b, i * 64));
        }
        for (int m = 0; m < M; m++) {
            const uint32_t xv = ((const uint32_t*)(x + m * pitch))[i];
            for (int b = 0; b < NB; b++) a[m][b] = dot_u8(a[m][b], wv[b], xv);
        }
    }
    for (int m = 0; m < M; m++) {
        const uint8_t* row = x + m * pitch;
        const float scale = *(const float*)(row + k);
        const int32_t bias = 128 * *(const int32_t*)(row + k + 4);
        for (int b = 0; b < NB; b++)
            acc[m * NB + b] = vmul(itof(isub(a[m][b], bias)), vset(scale));
    }
}

// Input row of a grouped kind.
struct WideRow {
    const uint32_t *high, *low;  // four values each
    const float* scales;
    const int32_t* sums;

    WideRow(const uint8_t* x, int64_t k)
        : high((const uint32_t*)x),
          low((const uint32_t*)(x + k)),
          scales((const float*)(x + k * 2)),
          sums((const int32_t*)(scales + k / 32)) {}
};

template <int M, int NB>
inline void tile_int8_g32(const uint8_t* w, int64_t stride, const uint8_t* x, int64_t pitch,
                          int64_t k, Ahead ahead, vf* acc) {
    for (int m = 0; m < M * NB; m++) acc[m] = vzero();
    for (int64_t g = 0; g < k / 32; g++) {
        for (int b = 0; b < NB; b++) {
            const uint8_t* block = w + b * stride + g * 544;
            for (int p = 0; p < 9; p++) prefetch(block + AHEAD + p * 64);
            vi high[M], low[M];
            for (int m = 0; m < M; m++) high[m] = low[m] = izero();
            for (int i = 0; i < 8; i++) {
                const BytesU8 wv = load_u8(block + i * 64);
                for (int m = 0; m < M; m++) {
                    const WideRow row(x + m * pitch, k);
                    high[m] = dot_u8(high[m], wv, row.high[g * 8 + i]);
                    low[m] = dot_u8(low[m], wv, row.low[g * 8 + i]);
                }
            }
            const vf ws = vload_f16((const uint16_t*)(block + 512));
            for (int m = 0; m < M; m++) {
                const WideRow row(x + m * pitch, k);
                const vf dot = itof(isub(iwide(high[m], low[m]), 128 * row.sums[g]));
                acc[m * NB + b] = vfma(dot, vmul(ws, vset(row.scales[g])), acc[m * NB + b]);
            }
        }
    }
}

template <int M, int NB>
inline void tile_int4_g32(const uint8_t* w, int64_t stride, const uint8_t* x, int64_t pitch,
                          int64_t k, Ahead ahead, vf* acc) {
    for (int m = 0; m < M * NB; m++) acc[m] = vzero();
    for (int64_t g = 0; g < k / 32; g++) {
        for (int b = 0; b < NB; b++) {
            const uint8_t* block = w + b * stride + g * 320;
            for (int p = 0; p < 5; p++) prefetch(block + AHEAD + p * 64);
            vi high[M], low[M];
            for (int m = 0; m < M; m++) high[m] = low[m] = izero();
            for (int i = 0; i < 4; i++) {
                BytesU8 first, second;
                load_nibbles(block + i * 64, first, second);
                for (int m = 0; m < M; m++) {
                    const WideRow row(x + m * pitch, k);
                    const int64_t at = g * 8 + i * 2;
                    high[m] = dot_u8(dot_u8(high[m], first, row.high[at]), second, row.high[at + 1]);
                    low[m] = dot_u8(dot_u8(low[m], first, row.low[at]), second, row.low[at + 1]);
                }
            }
            const vf ws = vload_f16((const uint16_t*)(block + 256));
            const vf wo = vload_f16((const uint16_t*)(block + 288));
            for (int m = 0; m < M; m++) {
                const WideRow row(x + m * pitch, k);
                const vf dot = vfma(itof(iwide(high[m], low[m])), ws, vmul(wo, vset(float(row.sums[g]))));
                acc[m * NB + b] = vfma(dot, vset(row.scales[g]), acc[m * NB + b]);
            }
        }
    }
}

template <int M, int NB>
inline void tile(Kind kind, const uint8_t* w, int64_t stride, const uint8_t* x, int64_t pitch,
                 int64_t k, Ahead ahead, vf* acc) {
    switch (kind) {
        case F32: return tile_f32<M, NB>(w, stride, x, pitch, k, ahead, acc);
        case BF16: return tile_bf16<M, NB>(w, stride, x, pitch, k, ahead, acc);
        case INT8: return tile_int8<M, NB>(w, stride, x, pitch, k, ahead, acc);
        case INT8_G32: return tile_int8_g32<M, NB>(w, stride, x, pitch, k, ahead, acc);
        default: return tile_int4_g32<M, NB>(w, stride, x, pitch, k, ahead, acc);
    }
}

// What happens to 16 finished outputs of one row.
struct Epilogue {
    float* out;          // [rows, pitch]
    int64_t pitch;       // floats between rows of `out`
    int64_t n;           // true number of outputs
    const float* scale;  // f32[N] or null (int8 per channel)
    const float* bias;   // f32[N] or null
    bool add;            // out += result (residual)
};

inline void finish(const Epilogue& e, int64_t row, int64_t panel, vf v) {
    const int64_t o = panel * 16;
    float* out = e.out + row * e.pitch + o;
    if (o + 16 <= e.n) {
        if (e.scale) v = vmul(v, vload(e.scale + o));
        if (e.bias) v = vadd(v, vload(e.bias + o));
        vstore(out, e.add ? vadd(vload(out), v) : v);
        return;
    }
    float t[16];
    vstore(t, v);
    for (int64_t i = 0; i < e.n - o; i++) {
        float y = t[i] * (e.scale ? e.scale[o + i] : 1.0f) + (e.bias ? e.bias[o + i] : 0.0f);
        out[i] = e.add ? out[i] + y : y;
    }
}

template <int M, int NB>
inline void block(Kind kind, const uint8_t* w, int64_t stride, const uint8_t* x, int64_t pitch,
                  int64_t k, int64_t row, int64_t panel, Ahead ahead, const Epilogue& e) {
    vf acc[M * NB];
    tile<M, NB>(kind, w, stride, x, pitch, k, ahead, acc);
    for (int m = 0; m < M; m++)
        for (int b = 0; b < NB; b++) finish(e, row + m, panel + b, acc[m * NB + b]);
}

// The rows in turns of MOST. Each turn fetches one panel of those that come next, a lone turn all of
// them; later turns touch what they read anyway.
template <int NB, int MOST>
inline void rows_by(Kind kind, const uint8_t* w, int64_t stride, const uint8_t* x, int64_t pitch,
                    int64_t k, int64_t rows, int64_t panel, Ahead next, const Epilogue& e) {
    const bool lone = rows <= MOST;
    int64_t r = 0;
    for (; r + MOST <= rows; r += MOST) {
        const int64_t turn = r / MOST;
        const Ahead ahead = lone ? next : turn < NB ? Ahead{next.at(turn, 0), 0} : Ahead{w, stride};
        block<MOST, NB>(kind, w, stride, x + r * pitch, pitch, k, r, panel, ahead, e);
    }
    const uint8_t* rest = x + r * pitch;
    const Ahead ahead = lone ? next : r / MOST < NB ? Ahead{next.at(r / MOST, 0), 0} : Ahead{w, stride};
    switch (rows - r) {
        case 7: return block<7, NB>(kind, w, stride, rest, pitch, k, r, panel, ahead, e);
        case 6: return block<6, NB>(kind, w, stride, rest, pitch, k, r, panel, ahead, e);
        case 5: return block<5, NB>(kind, w, stride, rest, pitch, k, r, panel, ahead, e);
        case 4: return block<4, NB>(kind, w, stride, rest, pitch, k, r, panel, ahead, e);
        case 3: return block<3, NB>(kind, w, stride, rest, pitch, k, r, panel, ahead, e);
        case 2: return block<2, NB>(kind, w, stride, rest, pitch, k, r, panel, ahead, e);
        case 1: return block<1, NB>(kind, w, stride, rest, pitch, k, r, panel, ahead, e);
        default: return;
    }
}

template <int NB>
inline void rows_of(Kind kind, const uint8_t* w, int64_t stride, const uint8_t* x, int64_t pitch,
                    int64_t k, int64_t rows, int64_t panel, Ahead next, const Epilogue& e) {
    if (kind == INT8_G32 || kind == INT4_G32)  // two sums a row: four rows fill the registers
        return rows_by<NB, 4>(kind, w, stride, x, pitch, k, rows, panel, next, e);
    rows_by<NB, 8>(kind, w, stride, x, pitch, k, rows, panel, next, e);
}

// All rows against panels [first, last): the weights of a panel pair stay in cache for all rows.
// `after` is what this thread will read when it is done.
inline void matmul(Kind kind, const uint8_t* w, const uint8_t* x, int64_t pitch, int64_t k,
                   int64_t rows, int64_t first, int64_t last, Ahead after, const Epilogue& e) {
    const int64_t stride = panel_bytes(kind, k);
    int64_t p = first;
    if (rows > 3)  // few rows wait for memory, which likes one stream; many share their broadcasts
        for (; p + 2 <= last; p += 2) {
            const uint8_t* here = w + p * stride;
            const Ahead next = p + 4 <= last ? Ahead{here + 2 * stride, stride} : after;
            rows_of<2>(kind, here, stride, x, pitch, k, rows, p, next, e);
        }
    for (; p < last; p++) {
        const uint8_t* here = w + p * stride;
        rows_of<1>(kind, here, stride, x, pitch, k, rows, p, Ahead{here + AHEAD, stride}, e);
    }
}

}  // namespace ip
