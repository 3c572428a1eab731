// The matrix tiles of AMX, palette 1: the only place that names their instructions. Compiled either to
// the instructions or, with IP_TILE_EMULATION, to tile_emulation.hpp; kernels are written once.
// Tile numbers must be literals, since the assembler sees them.
#pragma once
#include <cstdint>

namespace ip {

// The operand of ldtilecfg, all 64 bytes of it.
struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64, "ldtilecfg reads 64 bytes");

}  // namespace ip

#ifdef IP_TILE_EMULATION
#include "tile_emulation.hpp"

#define IP_TILE_CONFIGURE(config) ip::emulated::configure(config)
#define IP_TILE_RELEASE() ip::emulated::release()
#define IP_TILE_ZERO(t) ip::emulated::zero(t)
#define IP_TILE_LOAD(t, from, pitch) ip::emulated::load(t, from, pitch)
#define IP_TILE_STORE(t, to, pitch) ip::emulated::store(t, to, pitch)
#define IP_TILE_DOT_BF16(c, a, b) ip::emulated::dot_bf16(c, a, b)
#define IP_TILE_DOT_SU(c, a, b) (ip::emulated::dot_int8<int8_t, uint8_t>(c, a, b))  // a signed, b unsigned

#else
#include <immintrin.h>

// GCC's intrinsics do not say that they read memory (of a configuration: 8 bytes of 64), and stores
// that nobody seems to read are deleted. A pointer given to an empty asm that may read anything keeps
// them; ggml#20824 is what happens without.
#define IP_TILE_READS(p) __asm__ volatile("" : : "r"(p) : "memory")

#define IP_TILE_CONFIGURE(config) \
    do {                          \
        IP_TILE_READS(config);    \
        _tile_loadconfig(config); \
    } while (0)
#define IP_TILE_RELEASE() _tile_release()
#define IP_TILE_ZERO(t) _tile_zero(t)
#define IP_TILE_LOAD(t, from, pitch)  \
    do {                              \
        IP_TILE_READS(from);          \
        _tile_loadd(t, from, pitch);  \
    } while (0)
#define IP_TILE_STORE(t, to, pitch)   \
    do {                              \
        _tile_stored(t, to, pitch);   \
        IP_TILE_READS(to);            \
    } while (0)
#define IP_TILE_DOT_BF16(c, a, b) _tile_dpbf16ps(c, a, b)
#define IP_TILE_DOT_SU(c, a, b) _tile_dpbsud(c, a, b)
#endif
