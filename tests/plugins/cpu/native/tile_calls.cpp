// Single operations on tiles for test_tile_emulation.py; built with IP_TILE_EMULATION.
#include "tile_ops.hpp"

extern "C" {
void configure(const void* config) { IP_TILE_CONFIGURE(config); }
void standard() {
    static const ip::TileConfig config;
    IP_TILE_CONFIGURE(&config);
}
void release() { IP_TILE_RELEASE(); }
void zero() { IP_TILE_ZERO(0); }
void load(int tile, const void* from, int64_t pitch) { IP_TILE_LOAD(tile, from, pitch); }
void store(int tile, void* to, int64_t pitch) { IP_TILE_STORE(tile, to, pitch); }
void dot_bf16(int c, int a, int b) { IP_TILE_DOT_BF16(c, a, b); }
void dot_su(int c, int a, int b) { IP_TILE_DOT_SU(c, a, b); }
}
