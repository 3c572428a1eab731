// Many rows times packed weights by tiles of AMX: 32 rows and two panels at a time, sums in float32 or
// int32. The packed panels are read as they are: 16 inputs (bf16: pairs, int8: fours) of 16 outputs are
// 1 KB and one tile. Panels in groups of 32 are widened to bf16 for each block of inputs.
// Knows nothing of threads: the caller gives a range of panels.
#pragma once
#include "matmul.hpp"

namespace ip {

constexpr int64_t TILE_ROWS = 16;
constexpr int64_t TILED_FROM = TURN + 1;  // rows; fewer wait for memory, whatever multiplies them

// Whether these weights have kernels for tiles. Groups are promised unrounded inputs (they are quantised
// to 16 bits otherwise), so they are widened to bf16 only where the inputs were bf16 anyway.
inline bool has_tiles(Kind kind, bool rounded) {
    return kind == BF16 || kind == INT8 || (grouped(kind) && rounded);
}

// How inputs of tiles lie: [rows/16][steps][16][64 bytes], a step being 32 inputs of bf16 or 64 of int8;
// of int8 then a scale f32 and a sum i32 for each row. Rows are those of whole tiles.
struct TiledRows {
    Kind kind;  // BF16 or INT8
    int64_t steps, tiles;

    TiledRows(Kind weight, int64_t k, int64_t rows)
        : kind(weight == INT8 ? INT8 : BF16),
          steps(weight == INT8 ? (k + 63) / 64 : (k + 31) / 32),
          tiles((rows + TILE_ROWS - 1) / TILE_ROWS) {}

    int64_t tile_bytes() const { return steps * 1024; }
    int64_t bytes() const { return tiles * (tile_bytes() + TILE_ROWS * 8); }
    float* scales(uint8_t* x) const { return (float*)(x + tiles * tile_bytes()); }
    int32_t* sums(uint8_t* x) const { return (int32_t*)(scales(x) + tiles * TILE_ROWS); }

    // From a row of input_bytes(kind, k); bytes beyond k become zero.
    void place(const uint8_t* row, int64_t k, int64_t number, uint8_t* x) const;
};

constexpr int64_t MOST_STEPS = 20;  // of a block of inputs: two panels of it, 40 KB, stay in the first cache

// Bytes of working memory a thread for `rows` rows: two widened blocks, and sums of two panels.
inline int64_t tile_scratch_bytes(int64_t rows) {
    return 2 * MOST_STEPS * 1024 + (rows + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS * 128;
}

// All rows against panels [first, last); `after` is what this thread will read when it is done.
void tile_matmul(Kind kind, const uint8_t* w, const uint8_t* x, int64_t k, int64_t rows, int64_t first,
                 int64_t last, Ahead after, const Epilogue& e, uint8_t* scratch);

// The calling thread's tiles: in use from the first call on, given back at the end of a step, so that
// no other code and no context switch ever meets them. Cheap when nothing changes.
void take_tiles();
void give_back_tiles();

}  // namespace ip
