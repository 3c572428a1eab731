// The product that every kernel of tiles is made of: 16 or 32 rows times one or two panels over a block of
// inputs. Needs tiles that were taken.
#pragma once
#include "tile_matmul.hpp"
#include "tile_ops.hpp"

namespace ip {

// Two panels of weights over a block of inputs, as tiles of 1 KB.
struct Block {
    const uint8_t *first, *second;  // second: null for a last lone panel
    int64_t steps;
};

// Where sums of 32 bits lie: rows of whole tiles, `pitch` numbers apart.
struct Sums {
    float* data;
    int64_t pitch;

    Sums from_tile(int64_t t) const { return {data + t * TILE_ROWS * pitch, pitch}; }
};

// What the rows of a block fetch evenly: `lines` of 64 bytes of two streams for each of their steps.
struct Fetch {
    const uint8_t *first, *second;
    int64_t lines;

    void go(int64_t step) const {
        for (int64_t i = step * lines; i < (step + 1) * lines; i++) {
            _mm_prefetch((const char*)first + i * 64, _MM_HINT_T1);
            _mm_prefetch((const char*)second + i * 64, _MM_HINT_T1);
        }
    }
    Fetch after(int64_t steps) const {
        return {first + steps * lines * 64, second + steps * lines * 64, lines};
    }
};

// Sums of 32 (or the last 16) rows and two panels (or the last one): tiles 0 1 / 2 3 += 4 5 times 6 7.
template <bool INTEGER, bool ROWS, bool PANELS>
inline void multiply(const uint8_t* x, int64_t tile_bytes, const Block& b, Fetch fetch, Sums sums, bool begin) {
    float* const below = sums.data + TILE_ROWS * sums.pitch;
    const int64_t pitch = sums.pitch * 4;
    if (begin) {
        IP_TILE_ZERO(0);
        if constexpr (PANELS) IP_TILE_ZERO(1);
        if constexpr (ROWS) IP_TILE_ZERO(2);
        if constexpr (ROWS && PANELS) IP_TILE_ZERO(3);
    } else {
        IP_TILE_LOAD(0, sums.data, pitch);
        if constexpr (PANELS) IP_TILE_LOAD(1, sums.data + 16, pitch);
        if constexpr (ROWS) IP_TILE_LOAD(2, below, pitch);
        if constexpr (ROWS && PANELS) IP_TILE_LOAD(3, below + 16, pitch);
    }
#define IP_DOT(c, a, w)              \
    do {                               \
        if constexpr (INTEGER)         \
            IP_TILE_DOT_SU(c, a, w);   \
        else                           \
            IP_TILE_DOT_BF16(c, a, w); \
    } while (0)
    for (int64_t s = 0; s < b.steps; s++) {
        fetch.go(s);
        IP_TILE_LOAD(6, b.first + s * 1024, 64);
        IP_TILE_LOAD(4, x + s * 1024, 64);
        IP_DOT(0, 4, 6);
        if constexpr (PANELS) {
            IP_TILE_LOAD(7, b.second + s * 1024, 64);
            IP_DOT(1, 4, 7);
        }
        if constexpr (ROWS) {
            IP_TILE_LOAD(5, x + tile_bytes + s * 1024, 64);
            IP_DOT(2, 5, 6);
        }
        if constexpr (ROWS && PANELS) IP_DOT(3, 5, 7);
    }
#undef IP_DOT
    IP_TILE_STORE(0, sums.data, pitch);
    if constexpr (PANELS) IP_TILE_STORE(1, sums.data + 16, pitch);
    if constexpr (ROWS) IP_TILE_STORE(2, below, pitch);
    if constexpr (ROWS && PANELS) IP_TILE_STORE(3, below + 16, pitch);
}

// `tiles` times 16 rows against one block; `x` lies at the block's first step, tiles of rows `tile_bytes` apart.
template <bool INTEGER, bool PANELS>
inline void all_rows(const uint8_t* x, int64_t tile_bytes, int64_t tiles, const Block& b, Fetch fetch, Sums sums,
                     bool begin) {
    int64_t t = 0;
    for (; t + 2 <= tiles; t += 2, fetch = fetch.after(b.steps))
        multiply<INTEGER, true, PANELS>(x + t * tile_bytes, tile_bytes, b, fetch, sums.from_tile(t), begin);
    if (t < tiles) multiply<INTEGER, false, PANELS>(x + t * tile_bytes, 0, b, fetch, sums.from_tile(t), begin);
}

template <bool INTEGER>
inline void multiply_block(const uint8_t* x, int64_t tile_bytes, int64_t tiles, const Block& b, Fetch fetch,
                           Sums sums, bool begin) {
    if (b.second)
        all_rows<INTEGER, true>(x, tile_bytes, tiles, b, fetch, sums, begin);
    else
        all_rows<INTEGER, false>(x, tile_bytes, tiles, b, fetch, sums, begin);
}

}  // namespace ip
