// Rows of activations as the matrix kernels read them: converted to the weight's type, then laid in
// turns. A turn is up to TURN neighbouring rows that one tile multiplies together; word i (4 bytes) of
// row m of a turn of M rows lies at [i][m], so that a tile reads one stream instead of M.
// Knows nothing of weights or threads.
#pragma once
#include <algorithm>
#include "kinds.hpp"

namespace ip {

constexpr int TURN = 8;

// One row of input as the kernel of `kind` reads it. Bytes a row:
//   f32 4K | bf16 2K | int8 K, then f32 scale, i32 sum
//   groups: high halves K, low halves K, then K/32 scales f32, a sum i32 for each group
inline int64_t input_bytes(Kind kind, int64_t k) {
    switch (kind) {
        case F32: return k * 4;
        case BF16: return k * 2;
        case INT8: return k + 8;
        case INT8_G16: return k * 2 + k / 32 * 12;
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

// 32 values as q * scale with q in 16 bits; q = 256 * high + low, both int8. SUMS: 1, or 2 of 16 each.
template <int SUMS>
inline void quantise_wide(const float* x, int8_t* high, int8_t* low, float* scale, int32_t* sum) {
    const float top = vpeak(vmax(vabs(vload(x)), vabs(vload(x + 16))));
    const float inverse = top > 0 ? 32512.0f / top : 0.0f;
    vf total = vzero();
    for (int64_t i = 0; i < 32; i += 16) {
        const vf q = vround(vmul(vload(x + i), vset(inverse)));
        const vf h = vround(vmul(q, vset(1.0f / 256.0f)));
        vstore_i8(high + i, h);
        vstore_i8(low + i, vfma(h, vset(-256.0f), q));
        if (SUMS == 2)
            sum[i / 16] = int32_t(vsum(q));
        else
            total = vadd(total, q);
    }
    *scale = top / 32512.0f;
    if (SUMS == 1) *sum = int32_t(vsum(total));
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
        int8_t *high = (int8_t*)out, *low = high + k;
        for (int64_t g = 0; g < k / 32; g++, x += 32, high += 32, low += 32)
            if (kind == INT8_G16)
                quantise_wide<2>(x, high, low, scales + g, sums + 2 * g);
            else
                quantise_wide<1>(x, high, low, scales + g, sums + g);
    }
}

// Word i of each of `rows` rows, `pitch` bytes apart, to out[i * rows + row].
inline void interleave(const uint8_t* plain, int64_t pitch, int64_t words, int64_t rows, uint32_t* out) {
    int64_t done = 0;
    if (rows == 8)
        for (; done + 8 <= words; done += 8) transpose8(plain + done * 4, pitch, out + done * 8);
    for (int64_t m = 0; m < rows; m++) {
        const uint32_t* row = (const uint32_t*)(plain + m * pitch);
        for (int64_t i = done; i < words; i++) out[i * rows + m] = row[i];
    }
}

}  // namespace ip
