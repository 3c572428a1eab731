// AMX tiles in plain C++, by the operation sections of Intel's manual (volume 2: LDTILECFG, TILELOADD,
// TILESTORED, TILEZERO, TILERELEASE, TDPBF16PS, TDPBSUD and its kin). For tests; one state a thread.
//
// Emulated: palettes 0 and 1; every check of the 64 configuration bytes; rows and bytes a row of each
// tile; zeroes in the rest of a loaded row and in the rows above; shapes that must fit each other.
// TDPBF16PS: even and odd products of one instruction in two float32 chains of fused multiply-adds
// that start at zero, then their sum added to the destination; denormal inputs and results are zero,
// to nearest, ties to even. Integers wrap.
// Not emulated: start_row other than 0 (interrupted loads), which NaN comes out of several, and a result
// so close below the smallest normal number that it rounds up to it: kept here, flushed by the manual.
// What a processor answers by #GP is SIGSEGV here and #UD is SIGILL, with a line on stderr before.
#pragma once
#include <cfloat>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace ip::emulated {

constexpr int TILES = 8, MOST_ROWS = 16, MOST_BYTES = 64;

struct Tile {
    int rows = 0, bytes = 0;
    alignas(64) uint8_t data[MOST_ROWS][MOST_BYTES] = {};

    bool valid() const { return rows > 0; }
    void clear() { std::memset(data, 0, sizeof data); }
    void clear_above() { std::memset(data[rows], 0, size_t(MOST_ROWS - rows) * MOST_BYTES); }
};

struct State {
    bool configured = false;
    Tile tiles[TILES];
};

inline State& state() {
    static thread_local State own;
    return own;
}

[[noreturn]] inline void fault(int signal, const char* why) {
    std::fprintf(stderr, "emulated tiles: %s\n", why);
    std::raise(signal);
    std::abort();
}
[[noreturn]] inline void protection(const char* why) { fault(SIGSEGV, why); }
[[noreturn]] inline void undefined(const char* why) { fault(SIGILL, why); }

inline void release() { state() = State{}; }

inline void configure(const void* memory) {
    uint8_t bytes[64];
    std::memcpy(bytes, memory, 64);
    if (bytes[0] == 0) return release();
    if (bytes[0] != 1) protection("an unknown palette");
    if (bytes[1] != 0) protection("start_row is not emulated");
    for (int i = 2; i < 16; i++)
        if (bytes[i]) protection("a reserved byte of the configuration is not zero");
    State next;
    for (int t = 0; t < 16; t++) {
        const int row_bytes = bytes[16 + 2 * t] | bytes[17 + 2 * t] << 8, rows = bytes[48 + t];
        if (t >= TILES) {
            if (row_bytes || rows) protection("a configuration of more than eight tiles");
            continue;
        }
        if (row_bytes > MOST_BYTES || rows > MOST_ROWS) protection("a tile larger than 16 rows of 64 bytes");
        if ((row_bytes == 0) != (rows == 0)) protection("a tile with rows or bytes, but not both");
        next.tiles[t].rows = rows;
        next.tiles[t].bytes = row_bytes;
    }
    next.configured = true;
    state() = next;
}

inline Tile& tile(int number) {
    if (!state().configured) undefined("tiles are not configured");
    if (number < 0 || number >= TILES || !state().tiles[number].valid()) undefined("a tile that is not configured");
    return state().tiles[number];
}

inline void zero(int number) { tile(number).clear(); }

inline void load(int number, const void* from, int64_t pitch) {
    Tile& t = tile(number);
    t.clear();
    for (int r = 0; r < t.rows; r++) std::memcpy(t.data[r], (const uint8_t*)from + r * pitch, size_t(t.bytes));
}

inline void store(int number, void* to, int64_t pitch) {
    const Tile& t = tile(number);
    for (int r = 0; r < t.rows; r++) std::memcpy((uint8_t*)to + r * pitch, t.data[r], size_t(t.bytes));
}

inline void check_shapes(int c, int a, int b) {
    if (c == a || a == b || b == c) undefined("a product of a tile with itself");
    const Tile &tc = tile(c), &ta = tile(a), &tb = tile(b);
    if (tc.bytes % 4 || ta.bytes % 4 || tb.bytes % 4) undefined("a row that is no multiple of 4 bytes");
    if (ta.rows != tc.rows || tb.bytes != tc.bytes || ta.bytes / 4 != tb.rows) undefined("tiles whose shapes differ");
}

inline float flushed(float x) { return std::fabs(x) < FLT_MIN ? std::copysign(0.0f, x) : x; }

inline float widened(const uint8_t* p) {
    uint16_t half;
    std::memcpy(&half, p, 2);
    const uint32_t bits = uint32_t(half) << 16;
    float f;
    std::memcpy(&f, &bits, 4);
    return flushed(f);
}

inline void dot_bf16(int c, int a, int b) {
    check_shapes(c, a, b);
    Tile& out = tile(c);
    const Tile &left = tile(a), &right = tile(b);
    const int outputs = out.bytes / 4;
    float even_inputs[MOST_ROWS][16], odd_inputs[MOST_ROWS][16];
    for (int k = 0; k < right.rows; k++)
        for (int n = 0; n < outputs; n++) {
            even_inputs[k][n] = widened(right.data[k] + 4 * n);
            odd_inputs[k][n] = widened(right.data[k] + 4 * n + 2);
        }
    for (int m = 0; m < out.rows; m++) {
        float even[16] = {}, odd[16] = {}, row[16];
        for (int k = 0; k < right.rows; k++) {
            const float x = widened(left.data[m] + 4 * k), y = widened(left.data[m] + 4 * k + 2);
            for (int n = 0; n < outputs; n++) {
                even[n] = flushed(std::fma(x, even_inputs[k][n], even[n]));
                odd[n] = flushed(std::fma(y, odd_inputs[k][n], odd[n]));
            }
        }
        std::memcpy(row, out.data[m], size_t(out.bytes));
        for (int n = 0; n < outputs; n++) row[n] = flushed(flushed(row[n]) + flushed(even[n] + odd[n]));
        std::memset(out.data[m], 0, MOST_BYTES);
        std::memcpy(out.data[m], row, size_t(out.bytes));
    }
    out.clear_above();
}

template <class A, class B>
inline void dot_int8(int c, int a, int b) {
    check_shapes(c, a, b);
    Tile& out = tile(c);
    const Tile &left = tile(a), &right = tile(b);
    for (int m = 0; m < out.rows; m++) {
        uint32_t row[16] = {};
        std::memcpy(row, out.data[m], size_t(out.bytes));
        for (int k = 0; k < right.rows; k++)
            for (int n = 0; n < out.bytes / 4; n++)
                for (int i = 0; i < 4; i++)
                    row[n] += uint32_t(int(A(left.data[m][4 * k + i])) * int(B(right.data[k][4 * n + i])));
        std::memset(out.data[m], 0, MOST_BYTES);
        std::memcpy(out.data[m], row, size_t(out.bytes));
    }
    out.clear_above();
}

}  // namespace ip::emulated
