// Repacks weights into the panels of matmul.hpp and reads single rows back. Runs once, at load.
#pragma once
#include "matmul.hpp"

namespace ip {

// value(o, i) of a dense source; rows beyond n are zero
template <class Value>
inline void pack_f32(Value value, int64_t n, int64_t k, float* out) {
    for (int64_t p = 0; p < (n + 15) / 16; p++)
        for (int64_t i = 0; i < k; i++)
            for (int64_t j = 0; j < 16; j++) *out++ = p * 16 + j < n ? value(p * 16 + j, i) : 0.0f;
}

inline void pack_bf16(const uint16_t* w, int64_t n, int64_t k, uint16_t* out) {
    for (int64_t p = 0; p < (n + 15) / 16; p++)
        for (int64_t i = 0; i < k; i += 2)
            for (int64_t j = 0; j < 16; j++) {
                const int64_t o = p * 16 + j;
                *out++ = o < n ? w[o * k + i] : 0;
                *out++ = o < n ? w[o * k + i + 1] : 0;
            }
}

// values int8[n,k] in -128..127
inline void pack_int8(const int8_t* w, int64_t n, int64_t k, uint8_t* out) {
    for (int64_t p = 0; p < (n + 15) / 16; p++)
        for (int64_t i = 0; i < k; i += 4)
            for (int64_t j = 0; j < 16; j++)
                for (int64_t c = 0; c < 4; c++) {
                    const int64_t o = p * 16 + j;
                    *out++ = uint8_t((o < n ? w[o * k + i + c] : 0) + 128);
                }
}

// values int8[n,k], scales f32[n,k/group] for groups of 16 or 32
inline void pack_int8_groups(const int8_t* w, const float* scales, int64_t group, int64_t n, int64_t k, uint8_t* out) {
    const int64_t each = 32 / group;
    for (int64_t p = 0; p < (n + 15) / 16; p++)
        for (int64_t g = 0; g < k / 32; g++) {
            for (int64_t i = g * 32; i < g * 32 + 32; i += 4)
                for (int64_t j = 0; j < 16; j++)
                    for (int64_t c = 0; c < 4; c++) {
                        const int64_t o = p * 16 + j;
                        *out++ = uint8_t((o < n ? w[o * k + i + c] : 0) + 128);
                    }
            uint16_t* s = (uint16_t*)out;
            for (int64_t part = 0; part < each; part++)
                for (int64_t j = 0; j < 16; j++) {
                    const int64_t o = p * 16 + j;
                    *s++ = f32_to_f16(o < n ? scales[o * (k / group) + g * each + part] : 0.0f);
                }
            out += each * 32;
        }
}

// values int8[n,k] in low..low+15, scales and offsets f32[n,k/32]; w = value*scale + offset.
// Nibbles are stored as value-low, so the offset absorbs low*scale.
inline void pack_int4_g32(const int8_t* w, const float* scales, const float* offsets, int low,
                          int64_t n, int64_t k, uint8_t* out) {
    const int64_t groups = k / 32;
    for (int64_t p = 0; p < (n + 15) / 16; p++)
        for (int64_t g = 0; g < groups; g++) {
            for (int64_t q = 0; q < 4; q++)  // 64 bytes: inputs 8q..8q+3 low, 8q+4..8q+7 high nibble
                for (int64_t j = 0; j < 16; j++)
                    for (int64_t c = 0; c < 4; c++) {
                        const int64_t o = p * 16 + j, i = g * 32 + q * 8 + c;
                        const int a = o < n ? w[o * k + i] - low : 0;
                        const int b = o < n ? w[o * k + i + 4] - low : 0;
                        *out++ = uint8_t(a | b << 4);
                    }
            uint16_t* s = (uint16_t*)out;
            for (int64_t j = 0; j < 16; j++) {
                const int64_t o = p * 16 + j;
                const float scale = o < n ? scales[o * groups + g] : 0.0f;
                const float offset = o < n && offsets ? offsets[o * groups + g] : 0.0f;
                s[j] = f32_to_f16(scale);
                s[16 + j] = f32_to_f16(offset + float(low) * scale);
            }
            out += 64;
        }
}

// Row `o` of a packed weight as floats; `scale` as in Epilogue.
inline void unpack_row(Kind kind, const uint8_t* w, int64_t k, int64_t o, const float* scale,
                       float* out) {
    const uint8_t* panel = w + o / 16 * panel_bytes(kind, k);
    const int64_t j = o % 16;
    for (int64_t i = 0; i < k; i++) {
        if (kind == F32) {
            out[i] = ((const float*)panel)[i * 16 + j];
        } else if (kind == BF16) {
            out[i] = bf16_to_f32(((const uint16_t*)panel)[i / 2 * 32 + j * 2 + i % 2]);
        } else if (kind == INT8) {
            out[i] = (int(panel[i / 4 * 64 + j * 4 + i % 4]) - 128) * scale[o];
        } else if (kind == INT8_G32 || kind == INT8_G16) {
            const uint8_t* b = panel + i / 32 * panel_bytes(kind, 32);
            const int q = int(b[i % 32 / 4 * 64 + j * 4 + i % 4]) - 128;
            const int64_t part = kind == INT8_G16 ? i % 32 / 16 * 16 : 0;
            out[i] = q * f16_to_f32(((const uint16_t*)(b + 512))[part + j]);
        } else {
            const uint8_t* b = panel + i / 32 * 320;
            const uint8_t byte = b[i % 32 / 8 * 64 + j * 4 + i % 4];
            const int q = i % 8 < 4 ? byte & 15 : byte >> 4;
            out[i] = q * f16_to_f32(((const uint16_t*)(b + 256))[j]) +
                     f16_to_f32(((const uint16_t*)(b + 288))[j]);
        }
    }
}

}  // namespace ip
