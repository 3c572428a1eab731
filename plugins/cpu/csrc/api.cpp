// The plain C interface that Python loads with ctypes.
#include "program.hpp"
#include "tile_support.hpp"

using namespace ip;

extern "C" {

int ip_version() { return 4; }
int ip_instruction_bytes() { return int(sizeof(Instruction)); }

const char* ip_isa() {
#ifdef IP_AVX512
    return "avx512";
#else
    return "avx2";
#endif
}

// Null where this process may use tiles, which this call asks for; else why not.
const char* ip_tiles_refused() {
#ifdef IP_TILES
    return tiles_refused();
#else
    return "the library was built without kernels for tiles";
#endif
}

// Null where tiles compute what vectors compute. Tiles that do not work end the process: call it in one of its own.
const char* ip_check_tiles() {
#ifdef IP_TILES
    static std::string wrong;
    if (const char* refused = tiles_refused()) return refused;
    wrong = check_tiles();
    return wrong.empty() ? nullptr : wrong.c_str();
#else
    return ip_tiles_refused();
#endif
}

void* ip_pool_create(int threads, const int* cpus) { return new Pool(threads, cpus); }
void ip_pool_destroy(void* pool) { delete (Pool*)pool; }

int64_t ip_packed_bytes(int kind, int64_t n, int64_t k) {
    // the kernels prefetch, never read, beyond the end
    return (n + 15) / 16 * panel_bytes(Kind(kind), k);
}

int64_t ip_scratch_bytes(int64_t widest, int64_t rows, int64_t dim, int64_t dim_v) {
    return scratch_bytes(widest, rows, dim, dim_v);
}
int64_t ip_shared_bytes(int kind, int64_t k, int64_t rows) { return shared_bytes(Kind(kind), k, rows); }
int64_t ip_partial_floats(int64_t dim_v) { return TILE * (dim_v + 2); }

void ip_pack_f32(const float* w, int64_t n, int64_t k, float* out) {
    pack_f32([&](int64_t o, int64_t i) { return w[o * k + i]; }, n, k, out);
}
void ip_pack_bf16(const uint16_t* w, int64_t n, int64_t k, uint16_t* out) { pack_bf16(w, n, k, out); }
void ip_pack_int8(const int8_t* w, int64_t n, int64_t k, uint8_t* out) { pack_int8(w, n, k, out); }
void ip_pack_int8_groups(const int8_t* w, const float* scales, int64_t group, int64_t n, int64_t k, uint8_t* out) {
    pack_int8_groups(w, scales, group, n, k, out);
}
void ip_pack_int4_g32(const int8_t* w, const float* scales, const float* offsets, int low, int64_t n,
                      int64_t k, uint8_t* out) {
    pack_int4_g32(w, scales, offsets, low, n, k, out);
}

void ip_run(void* pool, const Program* program, const Step* step) { run(*(Pool*)pool, *program, *step); }

// The cache's tokens as f32, and back: for the kit, [tokens][heads][dim].
void ip_write_tokens(const Cache* c, const int32_t* slots, int64_t n, const float* k, const float* v) {
    for (int64_t t = 0; t < n; t++)
        for (int64_t h = 0; h < c->kv_heads; h++)
            write_token(*c, slots[t], h, k + (t * c->kv_heads + h) * c->dim,
                        v + (t * c->kv_heads + h) * c->dim_v);
}
}
