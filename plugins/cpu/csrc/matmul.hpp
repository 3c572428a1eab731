// Rows times packed weights: panels of tiles.hpp over turns of inputs.hpp, and what happens to the sums.
// Knows nothing of threads: the caller gives a range of panels.
#pragma once
#include "tiles.hpp"

namespace ip {

// What happens to finished outputs, 16 of a row at a time.
struct Epilogue {
    float* out;          // [rows, pitch]
    int64_t pitch;       // floats between rows of `out`
    int64_t n;           // true number of outputs
    const float* scale;  // f32[N] or null (int8 per channel)
    const float* bias;   // f32[N] or null
    bool add;            // out += result (residual)

    template <int M, int NB>
    void take(int64_t row, int64_t panel, const vf* sums) const;  // sums[M][NB]
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
inline void Epilogue::take(int64_t row, int64_t panel, const vf* sums) const {
    for (int m = 0; m < M; m++)
        for (int b = 0; b < NB; b++) finish(*this, row + m, panel + b, sums[m * NB + b]);
}

// `apart`: bytes from a panel to the next of the NB that are multiplied together.
template <int M, int NB, class Taker>
inline void block(Kind kind, const uint8_t* w, int64_t apart, const uint32_t* x, int64_t k, int64_t row,
                  int64_t panel, Ahead ahead, const Taker& taker) {
    vf acc[M * NB];
    for (int i = 0; i < M * NB; i++) acc[i] = vzero();
    tile<M, NB>(kind, w, apart, x, k, ahead, acc);
    taker.template take<M, NB>(row, panel, acc);
}

// One turn of 1 to TURN rows.
template <int NB, class Taker>
inline void turn(Kind kind, const uint8_t* w, int64_t apart, const uint32_t* x, int64_t k, int64_t rows,
                 int64_t row, int64_t panel, Ahead ahead, const Taker& taker) {
    switch (rows) {
        case 8: return block<8, NB>(kind, w, apart, x, k, row, panel, ahead, taker);
        case 7: return block<7, NB>(kind, w, apart, x, k, row, panel, ahead, taker);
        case 6: return block<6, NB>(kind, w, apart, x, k, row, panel, ahead, taker);
        case 5: return block<5, NB>(kind, w, apart, x, k, row, panel, ahead, taker);
        case 4: return block<4, NB>(kind, w, apart, x, k, row, panel, ahead, taker);
        case 3: return block<3, NB>(kind, w, apart, x, k, row, panel, ahead, taker);
        case 2: return block<2, NB>(kind, w, apart, x, k, row, panel, ahead, taker);
        default: return block<1, NB>(kind, w, apart, x, k, row, panel, ahead, taker);
    }
}

// All turns against the same panels, which stay in cache; each turn fetches its part of the next ones.
template <int NB, class Taker>
inline void turns(Kind kind, const uint8_t* w, int64_t apart, const uint8_t* x, int64_t k, int64_t rows,
                  int64_t panel, Ahead next, const Taker& taker) {
    constexpr int64_t most = TURN;
    const int64_t bytes = input_bytes(kind, k), stride = panel_bytes(kind, k);
    const int64_t step = std::max<int64_t>(1, 64 * most / std::max(rows, most));
    for (int64_t r = 0; r < rows; r += most) {
        const int64_t fetched = r / most * (stride * step / 64);
        const Ahead part{next.start + fetched, next.stride, step}, nothing{w, 0, 0};
        const uint32_t* rows_here = (const uint32_t*)(x + r * bytes);
        turn<NB>(kind, w, apart, rows_here, k, std::min(most, rows - r), r, panel,
                 fetched < stride ? part : nothing, taker);
    }
}

// All rows against panels [first, last). `after` is what this thread will read when it is done.
inline void matmul(Kind kind, const uint8_t* w, const uint8_t* x, int64_t k, int64_t rows, int64_t first,
                   int64_t last, Ahead after, const Epilogue& e) {
    const int64_t stride = panel_bytes(kind, k);
    const bool lone = rows <= TURN;  // waits for memory, which likes one stream
    int64_t p = first;
    if (!lone && !grouped(kind))  // two sums a row: one panel fills the registers
        for (; p + 2 <= last; p += 2) {
            const uint8_t* here = w + p * stride;
            const Ahead next = p + 4 <= last ? Ahead{here + 2 * stride, stride, 0} : after;
            turns<2>(kind, here, stride, x, k, rows, p, next, e);
        }
    for (; p < last; p++) {
        const uint8_t* here = w + p * stride;
        const Ahead next = lone           ? Ahead{here + AHEAD, stride, 0}
                           : p + 1 < last ? Ahead{here + stride, stride, 0}
                                          : after;
        turns<1>(kind, here, stride, x, k, rows, p, next, e);
    }
}

}  // namespace ip
