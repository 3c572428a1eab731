// Whether this process may use tiles, and whether they compute what the vectors compute. The check runs
// programs, so that dispatch, packing and threads are checked with the kernels.
#include "tile_support.hpp"
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <vector>
#include "program.hpp"

namespace ip {
namespace {

#ifndef IP_TILE_EMULATION
constexpr int REQUEST_PERMISSION = 0x1023;  // ARCH_REQ_XCOMP_PERM, Linux 5.16
constexpr int TILE_DATA = 18;               // the component of XSAVE that holds tiles; 17 is their shapes

uint64_t enabled_state() {  // XCR0
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return uint64_t(high) << 32 | low;
}
#endif

// Numbers in -1..1 that are the same on every machine.
struct Numbers {
    uint64_t state = 1;
    float next() {
        state = state * 6364136223846793005u + 1442695040888963407u;
        return float(int32_t(state >> 32)) / 2147483648.0f;
    }
    std::vector<float> many(int64_t n) {
        std::vector<float> made(n);
        for (float& x : made) x = next();
        return made;
    }
};

struct Aligned {  // zeros
    std::vector<uint8_t> held;
    explicit Aligned(int64_t bytes) : held(size_t(bytes) + 64) {}
    uint8_t* data() { return (uint8_t*)((uintptr_t(held.data()) + 63) / 64 * 64); }
};

constexpr int THREADS = 2;

// One instruction over f32 rows `x` of width k, by vectors or by tiles.
std::vector<float> result(Pool& pool, Instruction i, std::vector<float>& x, int64_t rows, const Cache* cache,
                          const Group* group, const Step& sizes, bool tiles) {
    std::vector<float> out(size_t(rows * i.n));
    const Buffer buffers[2] = {{x.data(), int64_t(x.size()) / rows}, {out.data(), i.n}};
    const int64_t room = scratch_bytes(std::max<int64_t>(i.k, 32), rows, std::max<int64_t>(i.dim, 16),
                                       std::max<int64_t>(i.dim_v, 16));
    Aligned shared(shared_bytes(Kind(i.kind), std::max<int64_t>(i.k, 32), rows)), one(room), two(room);
    uint8_t* scratch[THREADS] = {one.data(), two.data()};
    i.src = 0, i.dst = 1;
    const Program program{&i, 1, buffers, cache, shared.data(), 0, scratch, room, nullptr, 0, tiles};
    Step step = sizes;
    step.tokens = rows;
    step.groups = group;
    run(pool, program, step);
    return out;
}

double difference(const std::vector<float>& a, const std::vector<float>& b) {  // relative Frobenius norm
    double off = 0, norm = 0;
    for (size_t i = 0; i < a.size(); i++) {
        off += double(a[i] - b[i]) * (a[i] - b[i]);
        norm += double(b[i]) * b[i];
    }
    return std::sqrt(off / norm);
}

Aligned packed(Kind kind, int64_t n, int64_t k) {
    Numbers make;
    const std::vector<float> w = make.many(n * k), scales(size_t(n * k / 16), 1.0f / 64);
    std::vector<uint16_t> halves(w.size());
    std::vector<int8_t> codes(w.size());
    for (size_t i = 0; i < w.size(); i++) {
        halves[i] = f32_to_bf16(w[i]);
        codes[i] = int8_t(std::lround(w[i] * (kind == INT4_G32 ? 7 : 127)));
    }
    Aligned out((n + 15) / 16 * panel_bytes(kind, k));
    switch (kind) {
        case BF16: pack_bf16(halves.data(), n, k, (uint16_t*)out.data()); break;
        case INT8: pack_int8(codes.data(), n, k, out.data()); break;
        case INT8_G32: pack_int8_groups(codes.data(), scales.data(), 32, n, k, out.data()); break;
        case INT8_G16: pack_int8_groups(codes.data(), scales.data(), 16, n, k, out.data()); break;
        default: pack_int4_g32(codes.data(), scales.data(), nullptr, -8, n, k, out.data());
    }
    return out;
}

// Empty, or what is wrong. Vectors and tiles round bf16 sums differently; integers are exact, but groups
// are widened to bf16 by tiles alone.
std::string check_linear(Pool& pool, Kind kind, int64_t n, int64_t k, int64_t rows) {
    Aligned weight = packed(kind, n, k);
    Numbers make;
    make.state = 2;
    std::vector<float> x = make.many(rows * k), scale(size_t(n), 0.01f);
    Instruction i{};
    i.op = LINEAR, i.k = k, i.n = n, i.kind = kind, i.rounded = 1, i.weight = weight.data();
    if (kind == INT8) i.weight_scale = scale.data();
    const auto tiles = result(pool, i, x, rows, nullptr, nullptr, Step{}, true);
    const auto vectors = result(pool, i, x, rows, nullptr, nullptr, Step{}, false);
    const double off = difference(tiles, vectors), limit = kind == INT8 ? 0 : kind == BF16 ? 1e-5 : 5e-3;
    if (off <= limit) return "";
    char text[160];
    std::snprintf(text, sizeof text, "a product of %ld rows, %ld inputs and %ld outputs (kind %d) is off by %.3g",
                  long(rows), long(k), long(n), int(kind), off);
    return text;
}

// A chunk of a prompt after `past` tokens, over permuted blocks of 16.
std::string check_attention(Pool& pool, int64_t past, int64_t length, int64_t window) {
    constexpr int64_t HEADS = 6, KV_HEADS = 2, DIM = 64, BLOCK = 16, WIDTH = (HEADS + 2 * KV_HEADS) * DIM;
    const int64_t context = past + length, blocks = (context + BLOCK - 1) / BLOCK;
    const int64_t bytes = blocks * KV_HEADS * BLOCK * DIM * 2;
    Aligned keys(bytes), values(bytes);
    const Cache cache{BF16, keys.data(), values.data(), BLOCK, KV_HEADS, DIM, DIM, nullptr, nullptr};
    Numbers make;
    std::vector<int32_t> table(blocks);
    for (int64_t b = 0; b < blocks; b++) table[b] = int32_t(blocks - 1 - b);
    for (int64_t t = 0; t < context; t++)
        for (int64_t h = 0; h < KV_HEADS; h++) {
            const std::vector<float> k = make.many(DIM), v = make.many(DIM);
            write_token(cache, table[t / BLOCK] * BLOCK + t % BLOCK, h, k.data(), v.data());
        }
    std::vector<float> x = make.many(length * WIDTH);
    const int32_t start[2] = {0, int32_t(length)}, end = int32_t(context);
    const Group group{table.data(), blocks, nullptr};
    Step step{};
    step.seqs = 1, step.query_start = start, step.seq_lens = &end;
    Instruction i{};
    i.op = ATTEND, i.n = HEADS * DIM, i.heads = HEADS, i.kv_heads = KV_HEADS, i.dim = i.dim_v = DIM;
    i.scale = 0.5, i.window = window;
    const auto tiles = result(pool, i, x, length, &cache, &group, step, true);
    const double off = difference(tiles, result(pool, i, x, length, &cache, &group, step, false));
    if (off <= 5e-3) return "";
    char text[160];
    std::snprintf(text, sizeof text, "attention of %ld tokens after %ld is off by %.3g", long(length), long(past), off);
    return text;
}

}  // namespace

const char* tiles_refused() {
#ifdef IP_TILE_EMULATION
    return nullptr;
#else
    uint32_t a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return "the processor does not tell its features";
    const uint32_t need = 1u << 22 | 1u << 24 | 1u << 25;  // AMX-BF16, AMX-TILE, AMX-INT8
    if ((d & need) != need) return "the processor has no AMX for bf16 and int8";
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & 1u << 27)) return "the system does not save extended state";
    if ((enabled_state() >> 17 & 3) != 3) return "the system does not save tiles (XCR0 without bits 17 and 18)";
    if (syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0) return nullptr;
    // a thread's alternate signal stack may be too small for the larger state
    return errno == ENOSPC ? "the kernel permits no tiles beside a signal stack that is too small for them"
                           : "the kernel permits no tiles to this process (arch_prctl; Linux 5.16 or newer may)";
#endif
}

std::string check_tiles() {
    const int cpus[THREADS] = {-1, -1};
    Pool pool(THREADS, cpus);
    for (Kind kind : {BF16, INT8, INT8_G32, INT8_G16, INT4_G32})
        for (int64_t rows : {9, 16, 33, 70})
            for (int64_t k : {32, 96, 1344})
                if (std::string wrong = check_linear(pool, kind, 40, k, rows); !wrong.empty()) return wrong;
    for (int64_t length : {9, 40})
        for (int64_t window : {0, 33})
            if (std::string wrong = check_attention(pool, 500, length, window); !wrong.empty()) return wrong;
    return "";
}

}  // namespace ip
