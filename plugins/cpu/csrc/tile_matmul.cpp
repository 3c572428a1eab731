#include "tile_block.hpp"

namespace ip {
namespace {

constexpr TileConfig CONFIG;  // constant, so that no store to it can be lost
thread_local bool taken = false;

// Bits FROM.. of 16 words as numbers.
template <int FROM>
inline vf value(vi words, int mask, vf scale, vf offset) {
    return vfma(itof(ibits<FROM>(words, mask)), scale, offset);
}

// 16 outputs of 4 neighbouring inputs, one a byte, from bit FROM of it on: two rows of pairs.
template <int FROM>
inline void widen_four(vi v, int mask, vf scale, vf offset, uint16_t* out) {
    vstore_pairs(out, value<FROM>(v, mask, scale, offset), value<FROM + 8>(v, mask, scale, offset));
    vstore_pairs(out + 32, value<FROM + 16>(v, mask, scale, offset), value<FROM + 24>(v, mask, scale, offset));
}

// Steps [from, from + steps) of a panel in groups of 32 as bf16 pairs.
void widen(Kind kind, const uint8_t* panel, int64_t from, int64_t steps, uint16_t* out) {
    const int64_t bytes = panel_bytes(kind, 32), codes = kind == INT4_G32 ? 256 : 512;
    for (int64_t g = from; g < from + steps; g++) {
        const uint8_t* group = panel + g * bytes;
        for (int64_t line = 0; line < bytes; line += 64)
            _mm_prefetch((const char*)group + AHEAD + line, _MM_HINT_T0);
        const vf scale = vload_f16((const uint16_t*)(group + codes));
        if (kind != INT4_G32) {
            const vf second = kind == INT8_G16 ? vload_f16((const uint16_t*)(group + codes + 32)) : scale;
            for (int i = 0; i < 8; i++, out += 64) {
                const vf s = i < 4 ? scale : second;
                widen_four<0>(iload(group + i * 64), 255, s, vmul(s, vset(-128.0f)), out);
            }
            continue;
        }
        const vf offset = vload_f16((const uint16_t*)(group + codes + 32));
        for (int i = 0; i < 4; i++, out += 128) {
            const vi v = iload(group + i * 64);
            widen_four<0>(v, 15, scale, offset, out);
            widen_four<4>(v, 15, scale, offset, out + 64);
        }
    }
}

// A panel's tiles of steps [from, from + steps): its own bytes where they are tiles already; else, and for
// a last step of which the panel holds half, a copy in `room`.
const uint8_t* tiles_of(Kind kind, const uint8_t* panel, int64_t k, int64_t from, int64_t steps, uint8_t* room) {
    if (grouped(kind)) {
        widen(kind, panel, from, steps, (uint16_t*)room);
        return room;
    }
    const int64_t have = panel_bytes(kind, k) - from * 1024;
    if (have >= steps * 1024) return panel + from * 1024;
    std::memcpy(room, panel + from * 1024, have);
    std::memset(room + have, 0, steps * 1024 - have);
    return room;
}

void finish_rows(Kind kind, const uint8_t* x, const TiledRows& laid, const float* sums, int64_t rows,
                 int64_t panel, int64_t panels, const Epilogue& e) {
    const float* scales = laid.scales((uint8_t*)x);
    const int32_t* totals = laid.sums((uint8_t*)x);
    for (int64_t m = 0; m < rows; m++)
        for (int64_t p = 0; p < panels; p++) {
            const float* sum = sums + m * 32 + p * 16;
            if (kind != INT8) {
                finish(e, m, panel + p, vload(sum));
                continue;
            }
            const vi whole = iadd(iload(sum), iset(-128 * totals[m]));
            finish(e, m, panel + p, vfma(itof(whole), vset(scales[m]), vzero()));
        }
}

}  // namespace

void TiledRows::place(const uint8_t* row, int64_t k, int64_t number, uint8_t* x) const {
    uint8_t* out = x + number / TILE_ROWS * tile_bytes() + number % TILE_ROWS * 64;
    const int64_t bytes = kind == INT8 ? k : k * 2;
    for (int64_t s = 0; s < steps; s++, out += 1024) {
        const int64_t have = std::min<int64_t>(64, bytes - s * 64);
        std::memcpy(out, row + s * 64, have);
        std::memset(out + have, 0, 64 - have);
    }
    if (kind != INT8) return;
    std::memcpy(scales(x) + number, row + k, 4);
    std::memcpy(sums(x) + number, row + k + 4, 4);
}

void tile_matmul(Kind kind, const uint8_t* w, const uint8_t* x, int64_t k, int64_t rows, int64_t first,
                 int64_t last, Ahead after, const Epilogue& e, uint8_t* scratch) {
    take_tiles();
    const TiledRows laid(kind, k, rows);
    const int64_t stride = panel_bytes(kind, k), pairs = (laid.tiles + 1) / 2;
    const int64_t blocks = (laid.steps + MOST_STEPS - 1) / MOST_STEPS;
    uint8_t *room = scratch, *other_room = scratch + MOST_STEPS * 1024;
    const Sums sums{(float*)(scratch + 2 * MOST_STEPS * 1024), 32};
    for (int64_t p = first; p < last; p += 2) {
        const uint8_t *one = w + p * stride, *other = p + 1 < last ? one + stride : nullptr;
        for (int64_t n = 0, from = 0; n < blocks; n++) {
            const int64_t end = laid.steps * (n + 1) / blocks, steps = end - from;
            const uint8_t* next = n + 1 < blocks ? one + end * 1024 : p + 2 < last ? one + 2 * stride : after.start;
            // what is widened is fetched while it is; a lone panel has no second stream
            const Fetch fetch{next, next + (p + 2 < last ? stride : after.stride),
                              grouped(kind) ? 0 : (16 + pairs - 1) / pairs};
            const Block block{tiles_of(kind, one, k, from, steps, room),
                              other ? tiles_of(kind, other, k, from, steps, other_room) : nullptr, steps};
            auto* multiply = kind == INT8 ? multiply_block<true> : multiply_block<false>;
            multiply(x + from * 1024, laid.tile_bytes(), laid.tiles, block, fetch, sums, n == 0);
            from = end;
        }
        finish_rows(kind, x, laid, sums.data, rows, p, other ? 2 : 1, e);
    }
}

void take_tiles() {
    if (taken) return;
    IP_TILE_CONFIGURE(&CONFIG);
    taken = true;
}

void give_back_tiles() {
    if (!taken) return;
    IP_TILE_RELEASE();
    taken = false;
}

}  // namespace ip
