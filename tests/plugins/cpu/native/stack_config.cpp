// A configuration made on the stack reaches `seen` through an instruction that, like GCC's intrinsic of
// ldtilecfg, says that it reads 8 of the 64 bytes; with UNGUARDED without what tile_ops.hpp does about it.
#include "tile_ops.hpp"

static uint8_t seen[64];

#undef _tile_loadconfig
#define _tile_loadconfig(p)                                                          \
    __asm__ volatile("lea %1, %%rsi\n\tlea %0, %%rdi\n\tmov $64, %%ecx\n\trep movsb" \
                     : "=m"(seen)                                                    \
                     : "m"(*((const void**)(p)))                                     \
                     : "rsi", "rdi", "rcx")
#ifdef UNGUARDED
#undef IP_TILE_READS
#define IP_TILE_READS(p) (void)(p)
#endif

extern "C" const uint8_t* configured(int rows) {
    ip::TileConfig config;
    for (int t = 0; t < 8; t++) config.rows[t] = uint8_t(rows);
    IP_TILE_CONFIGURE(&config);
    return seen;
}
