// The types of packed weights and of caches, and how many bytes a weight takes.
#pragma once
#include "simd.hpp"

namespace ip {

enum Kind : int32_t { F32 = 0, BF16 = 1, INT8 = 2, INT8_G32 = 3, INT4_G32 = 4, INT8_G16 = 5, FP8 = 6 };  // fp8: caches

inline bool grouped(Kind kind) { return kind == INT8_G32 || kind == INT4_G32 || kind == INT8_G16; }

inline int64_t panel_bytes(Kind kind, int64_t k) {
    switch (kind) {
        case F32: return k * 64;
        case BF16: return k * 32;
        case INT8: return k * 16;
        case INT8_G32: return k / 32 * 544;
        case INT8_G16: return k / 32 * 576;
        default: return k / 32 * 320;
    }
}

}  // namespace ip
