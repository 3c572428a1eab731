#include "tile_attention.hpp"
#include "tile_block.hpp"

namespace ip {
namespace {

constexpr Fetch NOTHING{nullptr, nullptr, 0};  // what a prompt reads again lies in the second cache

// Scaled queries as tiles.
void place_queries(const AttentionSpec& spec, const Rows& rows, int64_t dim, const TiledRows& laid, uint8_t* q) {
    float scaled[512];
    for (int64_t m = 0; m < rows.count; m++) {
        const float* source = rows.row(m, dim);
        for (int64_t d = 0; d < dim; d += 16) vstore(scaled + d, vmul(vload(source + d), vset(spec.scale)));
        convert_row(BF16, scaled, dim, (uint8_t*)scaled);
        laid.place((const uint8_t*)scaled, dim, m, q);
    }
}

// The values of one panel of 16 dimensions, blocks behind each other; zeros to the end of the last tile.
const uint8_t* gather_values(const Context& context, int64_t d, int64_t steps, uint8_t* room) {
    const int64_t bytes = panel_bytes(BF16, context.cache->block_size);
    int64_t done = 0;
    for (int64_t b = 0; b < context.last - context.first; b++, done += bytes)
        std::memcpy(room + done, context.values(b) + d / 16 * bytes, bytes);
    std::memset(room + done, 0, steps * 1024 - done);
    return room;
}

}  // namespace

void attend_wide(const AttentionSpec& spec, const Rows& rows, const Context& context, uint8_t* scratch, Partial out) {
    take_tiles();
    const Cache& c = *context.cache;
    const int64_t span = context.panels() * 16, before = context.first * c.block_size;
    const TiledRows queries(BF16, c.dim, rows.count), weights(BF16, span, rows.count);
    uint8_t* q = scratch;
    float* scores = (float*)(q + WIDE * c.dim * 2);  // [WIDE][CHUNK]
    uint8_t* p = (uint8_t*)(scores + WIDE * CHUNK);
    uint8_t *room = p + WIDE * CHUNK * 2, *other_room = room + CHUNK * 32;

    place_queries(spec, rows, c.dim, queries, q);
    for (int64_t panel = 0; panel < context.panels(); panel += 2) {
        const bool two = panel + 1 < context.panels();
        const Block keys{context.keys(panel), two ? context.keys(panel + 1) : nullptr, queries.steps};
        multiply_block<false>(q, queries.tile_bytes(), queries.tiles, keys, NOTHING, {scores + panel * 16, CHUNK},
                              true);
    }
    for (int64_t m = 0; m < rows.count; m++) {
        float* s = scores + m * CHUNK;
        soften(spec, s, span, before, rows.position(m), out.peak + m, out.sum + m);
        convert_row(BF16, s, span, (uint8_t*)s);
        weights.place((const uint8_t*)s, span, m, p);
    }
    for (int64_t d = 0; d < c.dim_v; d += 32) {
        const bool two = d + 16 < c.dim_v;
        const Block values{gather_values(context, d, weights.steps, room),
                           two ? gather_values(context, d + 16, weights.steps, other_room) : nullptr, weights.steps};
        multiply_block<false>(p, weights.tile_bytes(), weights.tiles, values, NOTHING, {out.out + d, c.dim_v}, true);
    }
}

}  // namespace ip
