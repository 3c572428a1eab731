// A linear whose outputs are a gate and what it lets through: each thread multiplies both halves of a column
// and gates them at once, so that the wide sums never reach memory. Knows nothing of threads.
#pragma once
#include "matmul.hpp"
#include "rows.hpp"

namespace ip {

// What happens to 16 sums of the gate and the same 16 of the other half.
struct GatedEpilogue {
    uint8_t* out;        // turns of `reader`'s inputs where they are laid so, else f32 [rows][pitch]
    int64_t pitch;       // floats
    int64_t half;        // outputs of the gate, a multiple of 16
    const float* scale;  // f32[2 * half] or null
    const float* bias;   // f32[2 * half] or null
    bool silu;           // else the tanh form of GELU
    Kind reader;         // of the linear that reads them

    // Whether 16 numbers of a row can be converted without the rest of the row.
    static bool laid(Kind reader) { return reader == F32 || reader == BF16; }

    vf finished(int64_t at, vf v) const {
        if (scale) v = vmul(v, vload(scale + at));
        return bias ? vadd(v, vload(bias + at)) : v;
    }

    // sums[M][NB]: gate and other half; the rows are one whole turn
    template <int M, int NB>
    void take(int64_t row, int64_t panel, const vf* sums) const {
        const int64_t o = panel * 16, bytes = input_bytes(reader, 16);
        float wide[M * 16];
        for (int m = 0; m < M; m++) {
            const vf gate = finished(o, sums[m * NB]), other = finished(half + o, sums[m * NB + NB - 1]);
            vstore(wide + m * 16, vmul(silu ? ip::silu(gate) : gelu_tanh(gate), other));
        }
        if (!laid(reader)) {
            for (int m = 0; m < M; m++) vstore((float*)out + (row + m) * pitch + o, vload(wide + m * 16));
            return;
        }
        uint8_t plain[M * 64];
        for (int m = 0; m < M; m++) convert_row(reader, wide + m * 16, 16, plain + m * bytes);
        uint32_t* turn = (uint32_t*)(out + row * input_bytes(reader, half));
        interleave(plain, bytes, bytes / 4, M, turn + panel * (bytes / 4) * M);
    }
};

// All rows against panels [first, last) of the gate and of the other half.
inline void gated_matmul(Kind kind, const uint8_t* w, const uint8_t* x, int64_t k, int64_t rows, int64_t first,
                         int64_t last, Ahead after, const GatedEpilogue& e) {
    const int64_t stride = panel_bytes(kind, k), apart = e.half / 16 * stride;
    for (int64_t p = first; p < last; p++) {
        const uint8_t* here = w + p * stride;
        turns<2>(kind, here, apart, x, k, rows, p, p + 1 < last ? Ahead{here + stride, apart, 0} : after, e);
    }
}

}  // namespace ip
