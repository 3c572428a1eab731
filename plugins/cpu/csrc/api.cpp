// The plain C interface that Python loads with ctypes.
#include "program.hpp"
#include "tile_support.hpp"
#include "widened.hpp"

using namespace ip;

// Whole panels of rows, on every processor that this process may use: most of the time of packing is the
// kernel's, which finds and clears the pages.
template <class Pack>
static void in_parts(int64_t n, int64_t k, Pack pack) {
    constexpr int64_t LEAST = 1 << 18;  // numbers worth a thread
    const int64_t most = std::max(1u, std::thread::hardware_concurrency());
    const int64_t panels = (n + 15) / 16, parts = std::max<int64_t>(1, std::min({most, panels, n * k / LEAST}));
    std::vector<std::thread> others;
    for (int64_t part = 0; part < parts; part++) {
        const int64_t first = panels * part / parts * 16, last = std::min(n, panels * (part + 1) / parts * 16);
        if (part + 1 < parts)
            others.emplace_back(pack, first, last - first);
        else
            pack(first, last - first);
    }
    for (auto& other : others) other.join();
}

extern "C" {

int ip_version() { return 6; }
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
int64_t ip_widened_bytes(int64_t dim, int64_t dim_v) { return WIDENED * widened_chunk(dim, dim_v); }
int64_t ip_shared_bytes(int kind, int64_t k, int64_t rows) { return shared_bytes(Kind(kind), k, rows); }
int64_t ip_partial_floats(int64_t dim_v) { return TILE * (dim_v + 2); }

void ip_pack_f32(const float* w, int64_t n, int64_t k, float* out) {
    in_parts(n, k, [=](int64_t o, int64_t rows) { pack_f32(w + o * k, rows, k, out + o * k); });
}
void ip_pack_bf16(const uint16_t* w, int64_t n, int64_t k, uint16_t* out) {
    in_parts(n, k, [=](int64_t o, int64_t rows) { pack_bf16(w + o * k, rows, k, out + o * k); });
}
void ip_pack_int8(const int8_t* w, int64_t n, int64_t k, uint8_t* out) {
    in_parts(n, k, [=](int64_t o, int64_t rows) { pack_int8(w + o * k, rows, k, out + o * k); });
}
void ip_pack_int8_groups(const int8_t* w, const float* scales, int64_t group, int64_t n, int64_t k, uint8_t* out) {
    const int64_t panel = panel_bytes(group == 16 ? INT8_G16 : INT8_G32, k);
    in_parts(n, k, [=](int64_t o, int64_t rows) {
        pack_int8_groups(w + o * k, scales + o * (k / group), group, rows, k, out + o / 16 * panel);
    });
}
void ip_pack_int4_g32(const int8_t* w, const float* scales, const float* offsets, int low, int64_t n,
                      int64_t k, uint8_t* out) {
    in_parts(n, k, [=](int64_t o, int64_t rows) {
        const int64_t at = o * (k / 32);
        pack_int4_g32(w + o * k, scales + at, offsets ? offsets + at : nullptr, low, rows, k,
                      out + o / 16 * panel_bytes(INT4_G32, k));
    });
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
