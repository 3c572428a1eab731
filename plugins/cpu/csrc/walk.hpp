// What the instructions share: a thread's walk over a program, its part of the work, rows of buffers.
#pragma once
#include "program.hpp"

namespace ip {

struct Walk {
    Pool& pool;
    const Program& program;
    const Step& step;
};

struct Span {
    int64_t first, last;
};

inline Span share(int64_t items, int thread, int threads) {
    return {items * thread / threads, items * (thread + 1) / threads};
}

inline int64_t rows_of(const Instruction& i, const Step& s) { return i.per_sample ? s.samples : s.tokens; }

inline float* at(const Walk& w, int64_t buffer, int64_t row, int64_t column) {
    const Buffer& b = w.program.buffers[buffer];
    return b.data + row * b.pitch + column;
}

}  // namespace ip
