// One token through many ops in one launch: a list of instructions, walked by blocks that all live
// at once and wait for each other's values alone. `quantization/codes.cu` comes first.
//
// What is between two matrices (waiting, a norm, attention) moves few bytes and takes
// microseconds. Memory does not wait for it: four warps of each block do nothing but ask for
// weights, panel after panel, of whichever matrix comes next in the list, as far ahead as on-chip
// memory holds them; sixteen warps compute.
//
// A panel is 16 outputs by 1024 inputs, or 2048 in 4 bits; each computing warp takes a sixteenth of
// these inputs. Panels come in twos: with other outputs beside (BESIDE), with the inputs that follow
// (BEHIND), or of a gate and what it is multiplied with (PAIRED), which then leave as one row. A slot
// of the ring holds both, or one where they are large.
//
// Products are made in one of three ways. Codes of 8 bits that were widened, or whole numbers: each warp
// by itself (codes.cu). STRAIGHT: four warps together, from on-chip memory (straight.cu). HALVED: int4
// by whole numbers, x in two halves of 8 bits (halves.cu).
//
// This file has what all parts share, then come halves.cu, straight.cu, row.cu, attend.cu, ring.cu and
// walk.cu.
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
constexpr int WORDS_EACH = 18;       // of an instruction, 8 bytes each
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
#ifdef __CUDA_ARCH_FEAT_SM90_ALL  // the matrix instructions that Hopper alone has
#define STRAIGHT (CODES == 16 || (CODES == 7 && INPUT == 1))
#else
#define STRAIGHT 0
#endif
#define HALVED (CODES == 4)
#if OFFSET && !HALVED
#define SUMMED (GROUP == 32 ? 32 : 64)  // inputs of which x's sum is kept
#else
#define SUMMED 0
#endif
constexpr int ALIKE = GROUP == 32 || GROUP == 64 ? GROUP : 128;  // HALVED: inputs rounded by one scale
constexpr bool SCALED = !GROUP && !DENSE;  // outputs have a scale each, which comes with their codes
constexpr int SUMMANDS = !STRAIGHT ? WARPS : DENSE ? 8 : 4;      // of an output, at the end of a tile
enum Mode { BESIDE, PAIRED, BEHIND };
enum Kind { STREAM, NORM_ALONE, ATTEND };
enum Before { NOTHING, NORM, SILU };

__device__ __forceinline__ uint4 fresh16(const void* from) {  // other blocks wrote it: not from L1
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from) : "memory");
  return v;
}

__device__ __forceinline__ u32 fresh4(const void* from) {
  u32 v;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(from) : "memory");
  return v;
}

__device__ __forceinline__ u16 fresh2(const u16* from) {
  u16 v;
  asm volatile("ld.relaxed.gpu.global.u16 %0, [%1];" : "=h"(v) : "l"(from) : "memory");
  return v;
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

// The thread's number for a part that is seldom entered: what follows from it is worked out there, and
// not kept in registers all the way.
__device__ __forceinline__ int thread_here() {
  int thread = threadIdx.x;
  asm volatile("" : "+r"(thread));
  return thread;
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

// What one block leaves for the others: a word for each value, with the number of this launch in its
// lower half. Who finds the number has the value, and nobody waits for anything else (the LL protocol
// of NCCL, within one device). A pointer of an instruction is odd where it counts such words.
struct Left {
  u32* words;
  u32 number;

  __device__ __forceinline__ void leave(u32 place, int at, u16 value) const {  // place 0: for nobody
    if (place)
      asm volatile("st.relaxed.gpu.global.u32 [%0], %1;"
                   :: "l"(words + (place - 1) + at), "r"(u32(value) << 16 | number) : "memory");
  }
  __device__ __forceinline__ const u32* find(i64 source) const { return words + (source >> 1); }
};

struct Patience {  // half a minute: then a block is missing
  u32 turns = 0;
  __device__ __forceinline__ void wait() {
    if (++turns == 1u << 25) __trap();
  }
};

// COUNT words, each with its value above; asked for all at once, and again until all are there.
template <int COUNT, typename At>
__device__ __forceinline__ void bring_words(const Left& left, i64 source, const At& at,
                                            u32 (&words)[COUNT]) {
  if (!(source & 1)) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
      words[i] = u32(fresh2(reinterpret_cast<const u16*>(source) + at(i))) << 16;
    return;
  }
  const u32* const from = left.find(source);
  Patience patience;
  u32 other;
  do {
    other = 0;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) words[i] = fresh4(from + at(i));
#pragma unroll
    for (int i = 0; i < COUNT; ++i) other |= words[i] ^ left.number;
    patience.wait();
  } while (other << 16);
}

// Eight values at `at`; `other` is not 0 where words are not there yet.
__device__ __forceinline__ uint4 eight_at(const u32* at, u32 number, u32& other) {
  const uint4 a = fresh16(at), b = fresh16(at + 4);
  other |= ((a.x ^ number) | (a.y ^ number) | (a.z ^ number) | (a.w ^ number) | (b.x ^ number) |
            (b.y ^ number) | (b.z ^ number) | (b.w ^ number)) << 16;
  return make_uint4(__byte_perm(a.x, a.y, 0x7632), __byte_perm(a.z, a.w, 0x7632),
                    __byte_perm(b.x, b.y, 0x7632), __byte_perm(b.z, b.w, 0x7632));
}

// A thread's share of COUNT * 8 * THREADS values from `first` on: 8 of each 8 * THREADS. One word of a
// warp's share says when it is worth while to ask for all.
template <int COUNT>
__device__ __forceinline__ void bring_share(const Left& left, i64 source, int first, int inputs,
                                            uint4 (&kept)[COUNT]) {
#pragma unroll
  for (int j = 0; j < COUNT; ++j) kept[j] = make_uint4(0, 0, 0, 0);
  if (!(source & 1)) {
    const u16* const from = reinterpret_cast<const u16*>(source) + first;
#pragma unroll
    for (int j = 0; j < COUNT; ++j)
      if (first + j * 8 * THREADS < inputs) kept[j] = fresh16(from + j * 8 * THREADS);
    return;
  }
  const u32* const from = left.find(source) + first;
  if ((first & ~255) < inputs) {
    u32 last[1];
    bring_words(left, source, [&](int) { return min(first | 255, inputs - 1); }, last);
  }
  Patience patience;
  u32 other;
  do {
    other = 0;
#pragma unroll
    for (int j = 0; j < COUNT; ++j)
      if (first + j * 8 * THREADS < inputs)
        kept[j] = eight_at(from + j * 8 * THREADS, left.number, other);
    patience.wait();
  } while (other);
}
