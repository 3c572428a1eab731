// Tiles: a turn of M rows (inputs.hpp) times NB neighbouring panels of a packed weight. Panels hold 16
// outputs and are read from beginning to end:
//   f32   [K][16]
//   bf16  [K/2][16][2]
//   int8  [K/4][16][4] as unsigned w+128; scales f32[N] apart; input quantised per row
//   int8 in groups of 32  [K/32]{512 bytes, 16 f16 scales}
//   int8 in groups of 16  [K/32]{512 bytes, 16 f16 scales of the first 16 inputs, of the others}
//   int4 in groups of 32  [K/32]{256 bytes of nibbles, 16 f16 scales, 16 f16 offsets};
//        w = scale * nibble + offset
// Inputs of the grouped kinds are quantised to 16 bits per 32, as two int8 halves: weight-only
// formats promise the arithmetic of unquantised inputs, which 8 bits do not keep.
// One chain of sums per output whatever M and NB are: a row's result does not depend on how many
// rows share the step.
#pragma once
#include "inputs.hpp"

namespace ip {

constexpr int64_t AHEAD = 4096;  // bytes; about one DRAM latency of streaming

// What a tile fetches while it computes: `step` bytes of each stream for every 64 that it reads.
struct Ahead {
    const uint8_t* start;
    int64_t stride;  // between the streams of neighbouring panels
    int64_t step;    // 0..64

    // One stream is wanted at once, in the first cache; what the next tiles read waits in the second.
    template <int NB>
    void fetch(int64_t panel, int64_t offset) const {
        const char* line = (const char*)start + panel * stride + ((offset * step >> 6) & ~int64_t(63));
        if (NB == 1)
            _mm_prefetch(line, _MM_HINT_T0);
        else
            _mm_prefetch(line, _MM_HINT_T1);
    }
};

template <int M, int NB>
inline void tile_f32(const uint8_t* w, int64_t stride, const uint32_t* x, int64_t k, Ahead ahead,
                     vf* acc) {
    vf a[M][NB];
    for (int m = 0; m < M; m++)
        for (int b = 0; b < NB; b++) a[m][b] = acc[m * NB + b];
    for (int64_t i = 0; i < k; i++) {
        vf wv[NB];
        for (int b = 0; b < NB; b++) {
            wv[b] = vload((const float*)(w + b * stride) + i * 16);
            ahead.fetch<NB>(b, i * 64);
        }
        for (int m = 0; m < M; m++) {
            const vf xv = vset(((const float*)x)[i * M + m]);
            for (int b = 0; b < NB; b++) a[m][b] = vfma(wv[b], xv, a[m][b]);
        }
    }
    for (int m = 0; m < M; m++)
        for (int b = 0; b < NB; b++) acc[m * NB + b] = a[m][b];
}

template <int M, int NB>
inline void tile_bf16(const uint8_t* w, int64_t stride, const uint32_t* x, int64_t k, Ahead ahead,
                      vf* acc) {
    vf a[M][NB];
    for (int m = 0; m < M; m++)
        for (int b = 0; b < NB; b++) a[m][b] = acc[m * NB + b];
    for (int64_t i = 0; i < k / 2; i++) {
        PairsBF16 wv[NB];
        for (int b = 0; b < NB; b++) {
            wv[b] = load_pairs((const uint16_t*)(w + b * stride + i * 64));
            ahead.fetch<NB>(b, i * 64);
        }
        for (int m = 0; m < M; m++)
            for (int b = 0; b < NB; b++) a[m][b] = dot_bf16(a[m][b], wv[b], x[i * M + m]);
    }
    for (int m = 0; m < M; m++)
        for (int b = 0; b < NB; b++) acc[m * NB + b] = a[m][b];
}

template <int M, int NB>
inline void tile_int8(const uint8_t* w, int64_t stride, const uint32_t* x, int64_t k, Ahead ahead,
                      vf* acc) {
    const float* scales = (const float*)(x + k / 4 * M);
    const int32_t* sums = (const int32_t*)(x + (k / 4 + 1) * M);
    vi a[M][NB];
    for (int m = 0; m < M; m++)
        for (int b = 0; b < NB; b++) a[m][b] = iset(-128 * sums[m]);
    for (int64_t i = 0; i < k / 4; i++) {
        BytesU8 wv[NB];
        for (int b = 0; b < NB; b++) {
            wv[b] = load_u8(w + b * stride + i * 64);
            ahead.fetch<NB>(b, i * 64);
        }
        for (int m = 0; m < M; m++)
            for (int b = 0; b < NB; b++) a[m][b] = dot_u8(a[m][b], wv[b], x[i * M + m]);
    }
    for (int m = 0; m < M; m++)
        for (int b = 0; b < NB; b++) acc[m * NB + b] = vfma(itof(a[m][b]), vset(scales[m]), acc[m * NB + b]);
}

// Input rows of a grouped kind.
template <int M>
struct WideRows {
    const uint32_t *high, *low;  // [K/4][M], four values each
    const float* scales;         // [K/32][M]
    const int32_t* sums;  // [groups][M]

    WideRows(const uint32_t* x, int64_t k)
        : high(x),
          low(x + k / 4 * M),
          scales((const float*)(x + k / 2 * M)),
          sums((const int32_t*)scales + k / 32 * M) {}
};

template <int M>
inline void tile_int8_g32(const uint8_t* w, const uint32_t* x, int64_t k, Ahead ahead, vf* acc) {
    const WideRows<M> rows(x, k);
    vf total[M];
    for (int m = 0; m < M; m++) total[m] = acc[m];
    for (int64_t g = 0; g < k / 32; g++) {
        const uint8_t* block = w + g * 544;
        vi high[M], low[M];
        for (int m = 0; m < M; m++) high[m] = izero(), low[m] = iset(-128 * rows.sums[g * M + m]);
#pragma GCC unroll 8  // the sums of a group then stay in registers
        for (int i = 0; i < 8; i++) {
            const BytesU8 wv = load_u8(block + i * 64);
            ahead.fetch<1>(0, g * 544 + i * 64);
            const int64_t at = (g * 8 + i) * M;
            for (int m = 0; m < M; m++) {
                high[m] = dot_u8(high[m], wv, rows.high[at + m]);
                low[m] = dot_u8(low[m], wv, rows.low[at + m]);
            }
        }
        const vf ws = vload_f16((const uint16_t*)(block + 512));
        ahead.fetch<1>(0, g * 544 + 512);
        for (int m = 0; m < M; m++)
            total[m] = vfma(itof(iwide(high[m], low[m])), vmul(ws, vset(rows.scales[g * M + m])), total[m]);
    }
    for (int m = 0; m < M; m++) acc[m] = total[m];
}

template <int M>
inline void tile_int8_g16(const uint8_t* w, const uint32_t* x, int64_t k, Ahead ahead, vf* acc) {
    const WideRows<M> rows(x, k);
    vf total[M];
    for (int m = 0; m < M; m++) total[m] = acc[m];
    for (int64_t half = 0; half < k / 16; half++) {
        const int64_t block = half / 2 * 576, codes = block + half % 2 * 256, scales = block + 512 + half % 2 * 32;
        vi high[M], low[M];
        for (int m = 0; m < M; m++) high[m] = izero(), low[m] = iset(-128 * rows.sums[half * M + m]);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const BytesU8 wv = load_u8(w + codes + i * 64);
            ahead.fetch<1>(0, codes + i * 64);
            const int64_t at = (half * 4 + i) * M;
            for (int m = 0; m < M; m++) {
                high[m] = dot_u8(high[m], wv, rows.high[at + m]);
                low[m] = dot_u8(low[m], wv, rows.low[at + m]);
            }
        }
        const vf ws = vload_f16((const uint16_t*)(w + scales));
        ahead.fetch<1>(0, scales);
        for (int m = 0; m < M; m++) {
            const vf scale = vmul(ws, vset(rows.scales[half / 2 * M + m]));
            total[m] = vfma(itof(iwide(high[m], low[m])), scale, total[m]);
        }
    }
    for (int m = 0; m < M; m++) acc[m] = total[m];
}

template <int M>
inline void tile_int4_g32(const uint8_t* w, const uint32_t* x, int64_t k, Ahead ahead, vf* acc) {
    const WideRows<M> rows(x, k);
    vf total[M];
    for (int m = 0; m < M; m++) total[m] = acc[m];
    for (int64_t g = 0; g < k / 32; g++) {
        const uint8_t* block = w + g * 320;
        vi high[M], low[M];
        for (int m = 0; m < M; m++) high[m] = low[m] = izero();
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            BytesU8 first, second;
            load_nibbles(block + i * 64, first, second);
            ahead.fetch<1>(0, g * 320 + i * 64);
            const int64_t at = (g * 8 + i * 2) * M;
            for (int m = 0; m < M; m++) {
                high[m] = dot_u8(high[m], first, rows.high[at + m]);
                low[m] = dot_u8(low[m], first, rows.low[at + m]);
                high[m] = dot_u8(high[m], second, rows.high[at + M + m]);
                low[m] = dot_u8(low[m], second, rows.low[at + M + m]);
            }
        }
        const vf ws = vload_f16((const uint16_t*)(block + 256));
        const vf wo = vload_f16((const uint16_t*)(block + 288));
        ahead.fetch<1>(0, g * 320 + 256);
        for (int m = 0; m < M; m++) {
            const vf sum = vmul(wo, itof(iset(rows.sums[g * M + m])));
            const vf dot = vfma(itof(iwide(high[m], low[m])), ws, sum);
            total[m] = vfma(dot, vset(rows.scales[g * M + m]), total[m]);
        }
    }
    for (int m = 0; m < M; m++) acc[m] = total[m];
}

template <int M, int NB>
inline void tile(Kind kind, const uint8_t* w, int64_t stride, const uint32_t* x, int64_t k, Ahead ahead, vf* acc);

// Panels of a grouped kind, whose two sums a row leave registers for one at a time.
template <int M, int NB>
inline void one_by_one(Kind kind, const uint8_t* w, int64_t stride, const uint32_t* x, int64_t k, Ahead ahead,
                       vf* acc) {
    for (int b = 0; b < NB; b++, ahead.start += ahead.stride) {
        vf one[M];
        for (int m = 0; m < M; m++) one[m] = acc[m * NB + b];
        tile<M, 1>(kind, w + b * stride, 0, x, k, ahead, one);
        for (int m = 0; m < M; m++) acc[m * NB + b] = one[m];
    }
}

// acc[M][NB] += 16 outputs each.
template <int M, int NB>
inline void tile(Kind kind, const uint8_t* w, int64_t stride, const uint32_t* x, int64_t k, Ahead ahead,
                 vf* acc) {
    if constexpr (NB == 1) {
        if (kind == INT8_G32) return tile_int8_g32<M>(w, x, k, ahead, acc);
        if (kind == INT8_G16) return tile_int8_g16<M>(w, x, k, ahead, acc);
        if (kind == INT4_G32) return tile_int4_g32<M>(w, x, k, ahead, acc);
    } else if (grouped(kind)) {
        return one_by_one<M, NB>(kind, w, stride, x, k, ahead, acc);
    }
    switch (kind) {
        case F32: return tile_f32<M, NB>(w, stride, x, k, ahead, acc);
        case BF16: return tile_bf16<M, NB>(w, stride, x, k, ahead, acc);
        default: return tile_int8<M, NB>(w, stride, x, k, ahead, acc);
    }
}

}  // namespace ip
