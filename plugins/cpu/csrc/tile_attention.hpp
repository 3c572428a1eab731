// Attention of prompts by tiles of AMX: 32 query rows at a time over the blocks of the cache as they are, one
// chunk of context after the other (FlashAttention, arXiv 2205.14135). Single-threaded.
#pragma once
#include "attention.hpp"
#include "tile_matmul.hpp"

namespace ip {

constexpr int64_t WIDE = 2 * TILE_ROWS;  // query rows (token, head) handled together

// Whether the blocks of a cache are whole tiles.
inline bool has_tiles(const Cache& c) { return c.kind == BF16 && c.dim % 32 == 0; }

// Bytes: queries, scores, weights, and the values of a chunk for 32 dimensions.
inline int64_t wide_scratch(int64_t dim) { return WIDE * dim * 2 + WIDE * CHUNK * (4 + 2 + 2); }

// Up to WIDE rows against at most CHUNK tokens; the room of `out` is that of WIDE rows.
void attend_wide(const AttentionSpec& spec, const Rows& rows, const Context& context, uint8_t* scratch, Partial out);

}  // namespace ip
