// Sixteen-lane vectors over AVX-512 or AVX2, and the three dot products the matrix kernels are
// made of. Knows nothing of matrices, models or threads.
#pragma once
#include <immintrin.h>
#include <cmath>
#include <cstdint>
#include <cstring>

// Where a call would take the sums out of their registers, or the compiler's own choice costs a quarter.
#define IP_INLINE __attribute__((always_inline)) inline

namespace ip {

inline float bf16_to_f32(uint16_t h) {
    uint32_t bits = uint32_t(h) << 16;
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}

inline uint16_t f32_to_bf16(float f) {  // round to nearest even; NaN stays NaN
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16) | 0x40;
    return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float f16_to_f32(uint16_t h) { return _cvtsh_ss(h); }
inline uint16_t f32_to_f16(float f) { return _cvtss_sh(f, 0); }

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__) && defined(__AVX512BF16__)
#define IP_AVX512 1

using vf = __m512;   // 16 floats
using vi = __m512i;  // 16 int32

inline vf vzero() { return _mm512_setzero_ps(); }
inline vf vset(float x) { return _mm512_set1_ps(x); }
inline vf vload(const float* p) { return _mm512_loadu_ps(p); }
inline void vstore(float* p, vf x) { _mm512_storeu_ps(p, x); }
inline vf vadd(vf a, vf b) { return _mm512_add_ps(a, b); }
inline vf vsub(vf a, vf b) { return _mm512_sub_ps(a, b); }
inline vf vmul(vf a, vf b) { return _mm512_mul_ps(a, b); }
inline vf vdiv(vf a, vf b) { return _mm512_div_ps(a, b); }
inline vf vfma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
inline vf vmax(vf a, vf b) { return _mm512_max_ps(a, b); }
inline vf vmin(vf a, vf b) { return _mm512_min_ps(a, b); }
inline vf vabs(vf a) { return _mm512_abs_ps(a); }
inline float vsum(vf a) { return _mm512_reduce_add_ps(a); }
inline float vpeak(vf a) { return _mm512_reduce_max_ps(a); }
inline bool vnan(vf a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q) != 0; }
inline bool vabove(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0; }
inline vf vload_bf16(const uint16_t* p) {
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
inline void vstore_bf16(uint16_t* p, vf x) {
    _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(x));
}
inline vf vload_f16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
}
inline vf vround_scale(vf x, vf k) {  // x * 2^k for integral k
    return _mm512_scalef_ps(x, k);
}
inline vf vfloor(vf x) { return _mm512_roundscale_ps(x, 0x09); }
inline vf vround(vf x) { return _mm512_roundscale_ps(x, 0x08); }  // to nearest, ties to even
inline void vstore_i8(int8_t* p, vf x) {  // round to nearest, saturate
    _mm_storeu_si128((__m128i*)p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x)));
}

inline vi izero() { return _mm512_setzero_si512(); }
inline vf itof(vi a) { return _mm512_cvtepi32_ps(a); }
inline vi iset(int32_t x) { return _mm512_set1_epi32(x); }
inline vi iadd(vi a, vi b) { return _mm512_add_epi32(a, b); }
inline vi iwide(vi high, vi low) { return _mm512_add_epi32(_mm512_slli_epi32(high, 8), low); }
inline vi iload(const void* p) { return _mm512_loadu_si512(p); }
template <int FROM>
inline vi ibits(vi a, int mask) {  // (a >> FROM) & mask
    return _mm512_and_si512(_mm512_srli_epi32(a, FROM), _mm512_set1_epi32(mask));
}
inline void vstore_pairs(uint16_t* p, vf even, vf odd) {  // bf16 even[0], odd[0], even[1], ...
    const __m512i count = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i odds = _mm512_slli_epi32(_mm512_add_epi32(count, _mm512_set1_epi32(16)), 16);
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(odd, even);  // the 16 of even, then those of odd
    _mm512_storeu_si512(p, _mm512_permutexvar_epi16(_mm512_or_si512(count, odds), both));
}

// acc[o] += sum over the pair of w[o][2] * x[2]; w holds 16 outputs x 2 inputs of bf16
using PairsBF16 = __m512i;
inline PairsBF16 load_pairs(const uint16_t* p) { return _mm512_loadu_si512(p); }
inline vf dot_bf16(vf acc, PairsBF16 w, uint32_t x) {
    return _mm512_dpbf16_ps(acc, (__m512bh)w, (__m512bh)_mm512_set1_epi32(x));
}
struct BytesU8 {
    __m512i v;
};
inline BytesU8 load_u8(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
inline void load_nibbles(const uint8_t* p, BytesU8& lo, BytesU8& hi) {
    const __m512i mask = _mm512_set1_epi8(15), v = _mm512_loadu_si512(p);
    lo.v = _mm512_and_si512(v, mask);
    hi.v = _mm512_and_si512(_mm512_srli_epi16(v, 4), mask);
}
// acc[o] += sum over four of w[o][4] (unsigned) * x[4] (signed)
inline vi dot_u8(vi acc, BytesU8 w, uint32_t x) {
    return _mm512_dpbusd_epi32(acc, w.v, _mm512_set1_epi32(x));
}

#else  // AVX2 and FMA

struct vf {
    __m256 a, b;
};
struct vi {
    __m256i a, b;
};
inline vf vzero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline vf vset(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline vf vload(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void vstore(float* p, vf x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
inline vf vadd(vf x, vf y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline vf vsub(vf x, vf y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline vf vmul(vf x, vf y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline vf vdiv(vf x, vf y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline vf vfma(vf x, vf y, vf z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline vf vmax(vf x, vf y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline vf vmin(vf x, vf y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline vf vabs(vf x) {
    const __m256 m = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    return {_mm256_and_ps(x.a, m), _mm256_and_ps(x.b, m)};
}
inline float vsum(vf x) {
    __m256 s = _mm256_add_ps(x.a, x.b);
    __m128 t = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    t = _mm_add_ps(t, _mm_movehl_ps(t, t));
    return _mm_cvtss_f32(_mm_add_ss(t, _mm_movehdup_ps(t)));
}
inline float vpeak(vf x) {
    __m256 s = _mm256_max_ps(x.a, x.b);
    __m128 t = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    t = _mm_max_ps(t, _mm_movehl_ps(t, t));
    return _mm_cvtss_f32(_mm_max_ss(t, _mm_movehdup_ps(t)));
}
inline bool vnan(vf x) {
    return _mm256_movemask_ps(_mm256_or_ps(_mm256_cmp_ps(x.a, x.a, _CMP_UNORD_Q),
                                           _mm256_cmp_ps(x.b, x.b, _CMP_UNORD_Q))) != 0;
}
inline bool vabove(vf x, vf y) {
    return _mm256_movemask_ps(_mm256_or_ps(_mm256_cmp_ps(x.a, y.a, _CMP_GT_OQ),
                                           _mm256_cmp_ps(x.b, y.b, _CMP_GT_OQ))) != 0;
}
inline __m256 half_bf16(const uint16_t* p) {
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
inline vf vload_bf16(const uint16_t* p) { return {half_bf16(p), half_bf16(p + 8)}; }
inline void vstore_bf16(uint16_t* p, vf x) {
    float f[16];
    vstore(f, x);
    for (int i = 0; i < 16; i++) p[i] = f32_to_bf16(f[i]);
}
inline vf vload_f16(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)),
            _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
inline __m256 half_scale(__m256 x, __m256 k) {
    __m256i e = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(k), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(x, _mm256_castsi256_ps(e));
}
inline vf vround_scale(vf x, vf k) { return {half_scale(x.a, k.a), half_scale(x.b, k.b)}; }
inline vf vfloor(vf x) { return {_mm256_floor_ps(x.a), _mm256_floor_ps(x.b)}; }
inline vf vround(vf x) {
    return {_mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
            _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline void vstore_i8(int8_t* p, vf x) {
    int32_t t[16];
    _mm256_storeu_si256((__m256i*)t, _mm256_cvtps_epi32(x.a));
    _mm256_storeu_si256((__m256i*)(t + 8), _mm256_cvtps_epi32(x.b));
    for (int i = 0; i < 16; i++) p[i] = int8_t(t[i] > 127 ? 127 : t[i] < -128 ? -128 : t[i]);
}

inline vi izero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline vf itof(vi x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline vi iset(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline vi iadd(vi x, vi y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
inline vi iload(const void* p) {
    return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)p + 1)};
}
template <int FROM>
inline vi ibits(vi x, int mask) {
    const __m256i m = _mm256_set1_epi32(mask);
    return {_mm256_and_si256(_mm256_srli_epi32(x.a, FROM), m),
            _mm256_and_si256(_mm256_srli_epi32(x.b, FROM), m)};
}
inline void vstore_pairs(uint16_t* p, vf even, vf odd) {
    uint16_t e[16], o[16];
    vstore_bf16(e, even);
    vstore_bf16(o, odd);
    for (int i = 0; i < 16; i++) p[2 * i] = e[i], p[2 * i + 1] = o[i];
}
inline vi iwide(vi high, vi low) {
    return {_mm256_add_epi32(_mm256_slli_epi32(high.a, 8), low.a),
            _mm256_add_epi32(_mm256_slli_epi32(high.b, 8), low.b)};
}

inline __m256 half_dot_bf16(__m256 acc, __m256i w, __m256 x0, __m256 x1) {
    __m256 w0 = _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
    __m256 w1 = _mm256_castsi256_ps(_mm256_and_si256(w, _mm256_set1_epi32(int(0xffff0000))));
    return _mm256_fmadd_ps(w1, x1, _mm256_fmadd_ps(w0, x0, acc));
}
struct PairsBF16 {
    __m256i a, b;
};
inline PairsBF16 load_pairs(const uint16_t* p) {
    return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)p + 1)};
}
inline vf dot_bf16(vf acc, PairsBF16 w, uint32_t x) {
    const __m256 x0 = _mm256_castsi256_ps(_mm256_set1_epi32(int(x << 16)));
    const __m256 x1 = _mm256_castsi256_ps(_mm256_set1_epi32(int(x & 0xffff0000)));
    return {half_dot_bf16(acc.a, w.a, x0, x1), half_dot_bf16(acc.b, w.b, x0, x1)};
}
struct BytesU8 {
    __m256i a, b;
};
inline BytesU8 load_u8(const uint8_t* p) {
    return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 32))};
}
inline void load_nibbles(const uint8_t* p, BytesU8& lo, BytesU8& hi) {
    const __m256i mask = _mm256_set1_epi8(15);
    const BytesU8 v = load_u8(p);
    lo = {_mm256_and_si256(v.a, mask), _mm256_and_si256(v.b, mask)};
    hi = {_mm256_and_si256(_mm256_srli_epi16(v.a, 4), mask),
          _mm256_and_si256(_mm256_srli_epi16(v.b, 4), mask)};
}
inline __m256i half_dot_u8(__m256i acc, __m256i w, __m256i x) {
    // two 16-bit products a lane: maddubs would saturate for weights above 127
    const __m256i even = _mm256_set1_epi16(0x00ff);
    __m256i we = _mm256_and_si256(w, even), wo = _mm256_srli_epi16(w, 8);
    __m256i xe = _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), xo = _mm256_srai_epi16(x, 8);
    acc = _mm256_add_epi32(acc, _mm256_madd_epi16(we, xe));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(wo, xo));
}
inline vi dot_u8(vi acc, BytesU8 w, uint32_t x) {
    const __m256i v = _mm256_set1_epi32(int(x));
    return {half_dot_u8(acc.a, w.a, v), half_dot_u8(acc.b, w.b, v)};
}
#endif

// Eight words of each of eight rows, `pitch` bytes apart, to out[word * 8 + row].
inline void transpose8(const uint8_t* rows, int64_t pitch, uint32_t* out) {
    __m256 r[8], pair[8], four[8];
    for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps((const float*)(rows + i * pitch));
    for (int i = 0; i < 8; i += 2) {
        pair[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        pair[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            four[i + 2 * j] = _mm256_shuffle_ps(pair[i + j], pair[i + j + 2], 0x44);
            four[i + 2 * j + 1] = _mm256_shuffle_ps(pair[i + j], pair[i + j + 2], 0xee);
        }
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps((float*)out + i * 8, _mm256_permute2f128_ps(four[i], four[i + 4], 0x20));
        _mm256_storeu_ps((float*)out + i * 8 + 32, _mm256_permute2f128_ps(four[i], four[i + 4], 0x31));
    }
}

// e^x by range reduction and a degree-6 polynomial; relative error below 2e-7, x clamped to >= -87
inline vf vexp(vf x) {
    x = vmin(vmax(x, vset(-87.0f)), vset(88.0f));
    const vf k = vfloor(vfma(x, vset(1.44269504f), vset(0.5f)));
    const vf r = vfma(k, vset(-1.42860677e-6f), vfma(k, vset(-0.693145752f), x));
    vf p = vset(1.3981999e-3f);
    p = vfma(p, r, vset(8.3334519e-3f));
    p = vfma(p, r, vset(4.1665796e-2f));
    p = vfma(p, r, vset(1.66666655e-1f));
    p = vfma(p, r, vset(0.5f));
    p = vfma(p, r, vset(1.0f));
    p = vfma(p, r, vset(1.0f));
    return vround_scale(p, k);
}

}  // namespace ip
