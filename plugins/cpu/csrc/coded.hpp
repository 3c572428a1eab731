// Blocks of keys and values in 8 bits. A block and head holds its codes in the order of bf16 panels
// (attention.hpp), a byte each, then one bf16 scale a token. Every code is a bf16 number: scales go to scores
// and to weights, a number a token instead of one an element.
#pragma once
#include <algorithm>
#include "simd.hpp"

namespace ip {

enum class Code { INT8, FP8 };  // fp8: e4m3fn, arXiv 2209.05433

constexpr float LEAST_SCALE = 1e-30f;  // of zeros

inline float largest_code(Code code) { return code == Code::INT8 ? 127.0f : 448.0f; }

// Of |x| <= 448, to nearest, ties to even.
inline uint8_t f32_to_fp8(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const uint32_t sign = bits >> 24 & 0x80, size = bits & 0x7fffffff;
    const float tiny = std::fabs(x) * 512.0f + 12582912.0f;  // below 2^-6 codes count in steps of 2^-9
    uint32_t steps;
    std::memcpy(&steps, &tiny, 4);
    const uint32_t normal = ((size + 0x7ffff + (size >> 20 & 1)) >> 20) - (120 << 3);
    return uint8_t(sign | (size < 0x3c800000 ? steps - 0x4b400000 : normal));
}

inline uint16_t fp8_to_bf16(uint8_t code) {
    constexpr uint16_t TINY[8] = {0, 0x3b00, 0x3b80, 0x3bc0, 0x3c00, 0x3c20, 0x3c40, 0x3c60};
    const uint16_t size = code & 0x78 ? uint16_t(((code & 0x7f) << 4) + (120 << 7)) : TINY[code & 7];
    return uint16_t(size | (code & 0x80) << 8);
}

// n numbers, a multiple of 16, to codes. `scale`: what the head was calibrated to, or null: the largest number
// becomes the largest code. Returns the scale as it is stored.
inline uint16_t encode(Code code, const float* x, int64_t n, const float* scale, uint8_t* out) {
    const vf most = vset(largest_code(code)), least = vset(-largest_code(code));
    vf peak = vzero();
    for (int64_t i = 0; i < n; i += 16) peak = vmax(peak, vabs(vload(x + i)));
    const uint16_t stored = f32_to_bf16(scale ? *scale : std::max(vpeak(peak) / largest_code(code), LEAST_SCALE));
    const vf divisor = vset(bf16_to_f32(stored));
    for (int64_t i = 0; i < n; i += 16) {
        const vf scaled = vmin(vmax(vdiv(vload(x + i), divisor), least), most);
        if (code == Code::INT8) {
            vstore_i8((int8_t*)out + i, scaled);
            continue;
        }
        float wide[16];
        vstore(wide, scaled);
        for (int j = 0; j < 16; j++) out[i + j] = f32_to_fp8(wide[j]);
    }
    return stored;
}

// 32 codes to bf16.
inline void widen32(Code code, const uint8_t* codes, uint16_t* out) {
#ifdef IP_AVX512
    if (code == Code::INT8) {
        const vf low = itof(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)codes)));
        const vf high = itof(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)(codes + 16))));
        _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(high, low));
        return;
    }
    const __m512i tiny = _mm512_castsi128_si512(  // by the low bits of a code without exponent
        _mm_setr_epi16(0, 0x3b00, 0x3b80, 0x3bc0, 0x3c00, 0x3c20, 0x3c40, 0x3c60));
    const __m512i code16 = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i*)codes));
    const __m512i size = _mm512_slli_epi16(_mm512_and_si512(code16, _mm512_set1_epi16(0x7f)), 4);
    const __m512i sign = _mm512_slli_epi16(_mm512_and_si512(code16, _mm512_set1_epi16(0x80)), 8);
    const __m512i normal = _mm512_add_epi16(size, _mm512_set1_epi16(120 << 7));
    const __mmask32 small = _mm512_testn_epi16_mask(code16, _mm512_set1_epi16(0x78));
    const __m512i at = _mm512_and_si512(code16, _mm512_set1_epi16(7));
    const __m512i wide = _mm512_mask_permutexvar_epi16(normal, small, at, tiny);
    _mm512_storeu_si512(out, _mm512_or_si512(wide, sign));
#else
    if (code == Code::FP8) {
        for (int i = 0; i < 32; i++) out[i] = fp8_to_bf16(codes[i]);
        return;
    }
    for (int i = 0; i < 32; i++) {  // whole numbers below 2^8: the upper half of a float holds them
        const float wide = float(int8_t(codes[i]));
        uint32_t bits;
        std::memcpy(&bits, &wide, 4);
        out[i] = uint16_t(bits >> 16);
    }
#endif
}

// `tokens` tokens of one block and head. Meanwhile the same bytes of what comes next are fetched.
inline void widen_block(Code code, const uint8_t* block, const uint8_t* next, int64_t tokens, int64_t dim,
                        uint16_t* out, float* scales) {
    const int64_t codes = tokens * dim;
    for (int64_t i = 0; i < codes; i += 64) {
        _mm_prefetch((const char*)next + i, _MM_HINT_T0);
        widen32(code, block + i, out + i);
        widen32(code, block + i + 32, out + i + 32);
    }
    _mm_prefetch((const char*)next + codes, _MM_HINT_T0);
    for (int64_t t = 0; t < tokens; t += 16) vstore(scales + t, vload_bf16((const uint16_t*)(block + codes) + t));
}

}  // namespace ip
