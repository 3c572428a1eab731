// One token through many ops in one launch: a list of instructions, walked by blocks that all live
// at once and meet between two instructions. `quantization/codes.cu` comes first.
//
// What is between two matrices (a barrier, a norm, attention) moves few bytes and takes
// microseconds. Memory does not wait for it: four warps of each block do nothing but ask for
// weights, panel after panel, of whichever matrix comes next in the list, as far ahead as on-chip
// memory holds them; sixteen warps compute.
//
// A panel is 16 outputs by 1024 inputs, or 2048 in 4 bits; each computing warp takes a sixteenth of
// these inputs. Panels come in twos: with other outputs beside (BESIDE), with the inputs that follow
// (BEHIND), or of a gate and what it is multiplied with (PAIRED), which then leave as one row. A slot
// of the ring holds both, or one where they are large.
//
// This file has what all parts share, then come row.cu, attend.cu, ring.cu and walk.cu.
//
// Fixed while compiling (-D), beside those of codes.cu (MT is 2, NT 1, HALF, GROUP ... as there):
//   CODES    16: weights are in 16 bits, [O, I] as they are
//   DEPTH    slots of the ring
//   KEEP     times 8 * threads: the longest row
//   HELD     bytes of on-chip memory for a row of x, or for what warps of attention found
//   KV_HEADS, MEMBERS, SIZE   heads of keys, heads of queries to each, and their length;
//            MEMBERS 0: no attention
//   PAIRS    rotated pairs of a head; PAGE: tokens of a block of the cache
//   SCALE, EPS   bits of a float: scale of scores times log2(e), and of the norm of heads
//   HEAD_NORM    1: queries and keys are normalised by head

constexpr int THREADS = 32 * WARPS;  // that compute
constexpr int BRINGERS = 128;        // that bring weights
constexpr int WORDS_EACH = 16;       // of an instruction, 8 bytes each
constexpr bool DENSE = CODES == 16;
typedef unsigned long long u64;
constexpr bool PACKED = WIDE && !DENSE;          // codes lie as `packing.py` has laid them down
constexpr int CHUNKS = CODES == 4 ? 2 : 1;       // of 64 inputs, that a warp takes of a panel
constexpr int ACROSS = 64 * WARPS * CHUNKS;      // inputs of a panel
constexpr int LINE = DENSE ? 2 * ACROSS : ACROSS;  // bytes of an output in it
constexpr int CODE_BYTES = PACKED ? 16 * ACROSS * (CODES == 4 ? 1 : 2) / 2 : 16 * LINE;
constexpr int SCALE_BYTES = GROUP ? ACROSS / (GROUP ? GROUP : 1) * 128 : 0;
constexpr int PANEL_BYTES = CODE_BYTES + KINDS * SCALE_BYTES;
constexpr int PANELS = DENSE ? 1 : 2;            // of a slot
constexpr int SLOT_BYTES = PANELS * PANEL_BYTES;
constexpr int STEPS = 2 / PANELS;                // of a round
static_assert(MT == 2 && NT == 1, "two panels, one row");
#if CODES == 4 || OFFSET
#define SUMMED (GROUP == 32 ? 32 : 64)  // inputs of which x's sum is kept
#else
#define SUMMED 0
#endif
enum Mode { BESIDE, PAIRED, BEHIND };
enum Kind { STREAM, NORM_ALONE, ATTEND };
enum Before { NOTHING, NORM, SILU };

__device__ __forceinline__ uint4 fresh16(const void* from) {  // other blocks wrote it: not from L1
  uint4 v;
  asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from) : "memory");
  return v;
}

__device__ __forceinline__ u16 fresh2(const u16* from) {
  u16 v;
  asm volatile("ld.global.cg.u16 %0, [%1];" : "=h"(v) : "l"(from) : "memory");
  return v;
}

__device__ __forceinline__ float fresh4(const float* from) {
  float v;
  asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(v) : "l"(from) : "memory");
  return v;
}

__device__ __forceinline__ void announce(const void* from) {
  asm volatile("prefetch.global.L2 [%0];" :: "l"(from));
}

// On-chip addresses as numbers, worked out once: a pointer is worked out anew at each use.
__device__ __forceinline__ u32 address_of(const void* shared) {
  u32 at = place_of(shared);
  asm volatile("" : "+r"(at));
  return at;
}

__device__ __forceinline__ uint4 shared16(u32 at) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at));
  return v;
}

struct SharedFloats {
  u32 at;
  __device__ __forceinline__ float operator[](int i) const {
    float v;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(at + 4 * i));
    return v;
  }
};

__device__ __forceinline__ void wait_for(u32 barrier, u32 parity) {
  u32 done;
  do {
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; "
                 "selp.u32 %0, 1, 0, p; }"
                 : "=r"(done) : "r"(barrier), "r"(parity) : "memory");
  } while (!done);
}

__device__ __forceinline__ float sum_of_block(float v, float* parts) {
#pragma unroll
  for (int s = 16; s; s >>= 1) v += __shfl_xor_sync(~0u, v, s);
  meet();  // who came before has been read
  if (!(threadIdx.x & 31)) parts[threadIdx.x >> 5] = v;
  meet();
  v = 0.0f;
#pragma unroll
  for (int w = 0; w < WARPS; ++w) v += parts[w];
  return v;
}

__device__ __forceinline__ float power2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }

__device__ __forceinline__ u32 pair_of(float low, float high) {
  return u32(narrow(low)) | u32(narrow(high)) << 16;
}

// The barrier between two instructions, in two halves: what lies between them waits for nobody.
__device__ __forceinline__ void arrive(u32* counter) {
  meet();
  if (!threadIdx.x)
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" :: "l"(counter) : "memory");
}

__device__ __forceinline__ void await(const u32* counter, u32 goal) {
  if (!threadIdx.x) {
    u32 seen, turns = 0;
    do {
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
      if (++turns == 1u << 25) __trap();  // half a minute: a block is missing
    } while (seen < goal);
  }
  meet();
}
