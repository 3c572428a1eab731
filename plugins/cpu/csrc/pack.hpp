// Repacks weights into the panels of matmul.hpp and reads single rows back. Runs once, at load.
#pragma once
#include "matmul.hpp"

namespace ip {

// Words (4 bytes) [first, last) of 16 rows of `words` each, word by word beside each other; rows from `n` on are
// zero before the bits of `flip` change.
inline void lay_panel(const uint32_t* rows, int64_t n, int64_t words, int64_t first, int64_t last, uint32_t flip,
                      uint32_t* out) {
    int64_t i = first;
    if (n >= 16)
        for (uint32_t half[64]; i + 8 <= last; i += 8)
            for (int64_t side = 0; side < 16; side += 8) {
                transpose8((const uint8_t*)(rows + side * words + i), words * 4, half);
                for (int64_t word = 0; word < 8; word++)
                    for (int64_t j = 0; j < 8; j++)
                        out[(i - first + word) * 16 + side + j] = half[word * 8 + j] ^ flip;
            }
    for (; i < last; i++)
        for (int64_t j = 0; j < 16; j++) out[(i - first) * 16 + j] = (j < n ? rows[j * words + i] : 0) ^ flip;
}

// A dense source of n rows of `words` words.
inline void pack_words(const void* w, int64_t n, int64_t words, uint32_t flip, void* out) {
    for (int64_t p = 0; p < (n + 15) / 16; p++)
        lay_panel((const uint32_t*)w + p * 16 * words, n - p * 16, words, 0, words, flip,
                  (uint32_t*)out + p * 16 * words);
}

constexpr uint32_t PLUS_128 = 0x80808080u;  // to each of four bytes, as a change of bits

inline void pack_f32(const float* w, int64_t n, int64_t k, float* out) { pack_words(w, n, k, 0, out); }
inline void pack_bf16(const uint16_t* w, int64_t n, int64_t k, uint16_t* out) { pack_words(w, n, k / 2, 0, out); }
// values int8[n,k] in -128..127
inline void pack_int8(const int8_t* w, int64_t n, int64_t k, uint8_t* out) { pack_words(w, n, k / 4, PLUS_128, out); }

// values int8[n,k], scales f32[n,k/group] for groups of 16 or 32
inline void pack_int8_groups(const int8_t* w, const float* scales, int64_t group, int64_t n, int64_t k, uint8_t* out) {
    const int64_t each = 32 / group;
    for (int64_t p = 0; p < (n + 15) / 16; p++)
        for (int64_t g = 0; g < k / 32; g++) {
            lay_panel((const uint32_t*)(w + p * 16 * k), n - p * 16, k / 4, g * 8, g * 8 + 8, PLUS_128, (uint32_t*)out);
            out += 512;
            uint16_t* s = (uint16_t*)out;
            for (int64_t part = 0; part < each; part++)
                for (int64_t j = 0; j < 16; j++) {
                    const int64_t o = p * 16 + j;
                    *s++ = f32_to_f16(o < n ? scales[o * (k / group) + g * each + part] : 0.0f);
                }
            out += each * 32;
        }
}

// Four bytes minus another four, each by itself.
inline uint32_t bytes_minus(uint32_t a, uint32_t b) {
    return ((a | PLUS_128) - (b & ~PLUS_128)) ^ ((a ^ ~b) & PLUS_128);
}

// values int8[n,k] in low..low+15, scales and offsets f32[n,k/32]; w = value*scale + offset.
// Nibbles are stored as value-low, so the offset absorbs low*scale.
inline void pack_int4_g32(const int8_t* w, const float* scales, const float* offsets, int low,
                          int64_t n, int64_t k, uint8_t* out) {
    const int64_t groups = k / 32;
    const uint32_t lows = uint32_t(uint8_t(low)) * 0x01010101u;
    for (int64_t p = 0; p < (n + 15) / 16; p++)
        for (int64_t g = 0; g < groups; g++) {
            uint32_t codes[8 * 16];
            lay_panel((const uint32_t*)(w + p * 16 * k), n - p * 16, k / 4, g * 8, g * 8 + 8, 0, codes);
            for (int64_t q = 0; q < 4; q++)  // 64 bytes: inputs 8q..8q+3 low, 8q+4..8q+7 high nibble
                for (int64_t j = 0; j < 16; j++, out += 4) {
                    const uint32_t *even = codes + q * 32, *odd = even + 16;
                    const bool real = p * 16 + j < n;
                    const uint32_t both = bytes_minus(even[j], lows) | bytes_minus(odd[j], lows) << 4;
                    *(uint32_t*)out = real ? both : 0;
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
