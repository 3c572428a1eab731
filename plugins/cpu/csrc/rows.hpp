// Row-wise arithmetic on f32 rows: norms, gated activations, rotary embedding. Single-threaded.
#pragma once
#include "simd.hpp"

namespace ip {

// y = x / sqrt(mean(x^2) + eps) * w (RMSNorm, arXiv 1910.07467); n is a multiple of 16
inline void rms_norm(const float* x, const float* w, int64_t n, float eps, float* y) {
    vf sum = vzero();
    for (int64_t i = 0; i < n; i += 16) {
        const vf v = vload(x + i);
        sum = vfma(v, v, sum);
    }
    const vf inverse = vset(1.0f / std::sqrt(vsum(sum) / float(n) + eps));
    for (int64_t i = 0; i < n; i += 16) vstore(y + i, vmul(vmul(vload(x + i), inverse), vload(w + i)));
}

inline vf silu(vf x) { return vdiv(x, vadd(vset(1.0f), vexp(vsub(vzero(), x)))); }

inline vf gelu_tanh(vf x) {  // 0.5 x (1 + tanh(sqrt(2/pi)(x + 0.044715 x^3)))
    const vf u = vmul(vset(1.5957691216f), vfma(vmul(vmul(x, x), x), vset(0.044715f), x));
    return vdiv(x, vadd(vset(1.0f), vexp(vsub(vzero(), u))));
}

// y[n] = activation(x[0:n]) * x[n:2n]
template <bool SILU>
inline void gated(const float* x, int64_t n, float* y) {
    for (int64_t i = 0; i < n; i += 16) {
        const vf g = vload(x + i);
        vstore(y + i, vmul(SILU ? silu(g) : gelu_tanh(g), vload(x + n + i)));
    }
}

// Rotary position embedding of one head in place, halves style; cos and sin hold n/2 values.
inline void rotate(float* x, const float* cos, const float* sin, int64_t n) {
    const int64_t h = n / 2;
    int64_t i = 0;
    for (; i + 16 <= h; i += 16) {
        const vf a = vload(x + i), b = vload(x + h + i), c = vload(cos + i), s = vload(sin + i);
        vstore(x + i, vsub(vmul(a, c), vmul(b, s)));
        vstore(x + h + i, vfma(b, c, vmul(a, s)));
    }
    for (; i < h; i++) {
        const float a = x[i], b = x[h + i];
        x[i] = a * cos[i] - b * sin[i];
        x[h + i] = b * cos[i] + a * sin[i];
    }
}

}  // namespace ip
