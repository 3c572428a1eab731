// y[T, O] = x[T, I] times quantised weights [O, I] transposed: codes go from memory straight into
// the registers of the matrix instructions.
//
// As many blocks run as the device holds at once, each takes several tiles, one after the other. A
// warp holds MT tiles of 16 outputs and walks the inputs in chunks of 64, every WARPS-th one; the
// parts of all warps are added up at the end of a tile, while the next one's codes are on their way.
// lane = 4 * g + t holds outputs g and g + 8 of a tile.
// The matrix instructions number the inputs of a product otherwise than the lanes here read them,
// but a sum does not care, as long as x is read in the same order.
//   INPUT 0: `packing.py` has laid the codes down as a warp reads them; of each unit of 32 inputs a
//   lane has the neighbours 8t .. 8t+7.
//   INPUT 1, 2: codes [O, I] as they are, which the vendor's product for many rows wants; of each
//   chunk a lane has the neighbours 16t .. 16t+15, the first half in unit 0.
//
// Fixed while compiling (-D):
//   CODES    4: int4, 8: int8, 7: fp8 e4m3, 16: no codes, but weights in 16 bits
//   INPUT    0: x in 16 bits meets codes widened to 16 bits
//            1: x in 16 bits is rounded to the codes' type on the way, by a scale a row
//            2: x has been rounded before
//   HALF     1: 16 bits mean float16, 0: bfloat16
//   NT, MT   tiles of 8 rows of x and of 16 outputs a warp holds
//   WARPS    of a block; DEPTH: chunks a warp has in flight
//   GROUP    inputs that share a scale, a multiple of 32; 0: all of an output's
//   OFFSET   1: w = code * scale + offset (INPUT 0 only)
//   GIVEN    1: x's scale is given (INPUT 1)
//   HELD     1: x lies in on-chip memory, always so with INPUT 1
// Sizes: I a multiple of 64; rows of x and codes begin at 16 bytes.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;
typedef long long i64;

constexpr int WORDS = CODES == 4 ? 4 : CODES == 16 ? 16 : 8;  // 32-bit ones of a lane, chunk and tile
constexpr bool WIDE = INPUT == 0;
constexpr int SETS = MT * NT > 2 ? 1 : 2;  // of sums: with two, one barrier a tile will do
constexpr int PARTS = GROUP == 0 ? 0 : GROUP == 32 ? 2 : 1;  // scales of an output in a chunk
constexpr int KINDS = OFFSET ? 2 : 1;   // scales, and then offsets
constexpr int LOADS = WORDS / 4;        // of 16 bytes, for a chunk of a tile
constexpr int SLOT = MT * LOADS * 32 + PARTS * KINDS * 8;  // 16-byte pieces of a chunk in flight
constexpr int KEPT = 8;  // times 8 inputs a thread, of a row that is rounded on the way
constexpr int STRIDE = WARPS * 64;      // inputs from one chunk of a warp to its next
static_assert(GROUP == 0 || STRIDE % GROUP == 0, "a warp's chunks lie whole groups apart");

struct Codes { u32 w[WORDS]; };

template <typename A, typename B> constexpr bool is_same = false;
template <typename A> constexpr bool is_same<A, A> = true;

__device__ __forceinline__ u32 place_of(const void* shared) {
  return static_cast<u32>(__cvta_generic_to_shared(shared));
}

__device__ __forceinline__ void fetch16(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;"
               :: "r"(place_of(to)), "l"(from) : "memory");
}

__device__ __forceinline__ void fetch4(void* to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;"
               :: "r"(place_of(to)), "l"(from) : "memory");
}

__device__ __forceinline__ u32 both(u32 a, u32 mask, u32 magic) {  // (a & mask) | magic
  u32 d;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(d) : "r"(a), "r"(mask), "r"(magic));
  return d;
}

__device__ __forceinline__ u32 fma2(u32 a, u32 b, u32 c) {
  u32 d;
#if HALF
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
#else
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
#endif
  return d;
}

// Eight nibbles, code + 8: nibbles i and i + 4 are the halves of register i of a 16 x 16 tile. A
// nibble in the low bits of 128 (bfloat16) or 1024 (float16) adds exactly its value; what is too
// much, BEYOND, is taken back with the sum of x.
constexpr float BEYOND = HALF ? 1032.0f : 136.0f;

__device__ __forceinline__ void widen4(u32 w, u32 (&a)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
    a[i] = both(w >> (4 * i), 0x000f000fu, HALF ? 0x64006400u : 0x43004300u);
}

// Four codes of one output -> two registers.
__device__ __forceinline__ void widen8(u32 w, u32& low, u32& high) {
#if CODES == 8  // code + 128
#if HALF
  low = fma2(__byte_perm(w, 0x64646464u, 0x4140), 0x3c003c00u, 0xe480e480u);
  high = fma2(__byte_perm(w, 0x64646464u, 0x4342), 0x3c003c00u, 0xe480e480u);
#else
  u32 f[4];
#pragma unroll
  for (int i = 0; i < 4; ++i)
    f[i] = __float_as_uint(__uint_as_float(__byte_perm(w, 0x4b000000u, 0x7440 + i)) - 8388736.0f);
  low = __byte_perm(f[0], f[1], 0x7632);
  high = __byte_perm(f[2], f[3], 0x7632);
#endif
#else  // e4m3: its exponent and fraction in the place of the wider type's, then 2^8 or 2^120
#if HALF
  u32 a = __byte_perm(w, 0, 0x1404), b = __byte_perm(w, 0, 0x3424);
  low = fma2(both(a >> 1, 0x3f803f80u, a & 0x80008000u), 0x5c005c00u, 0x80008000u);
  high = fma2(both(b >> 1, 0x3f803f80u, b & 0x80008000u), 0x5c005c00u, 0x80008000u);
#else
  u32 a = __byte_perm(w, 0, 0x1404), b = __byte_perm(w, 0, 0x3424);
  low = fma2(both(a >> 4, 0x07f007f0u, a & 0x80008000u), 0x7b807b80u, 0x80008000u);
  high = fma2(both(b >> 4, 0x07f007f0u, b & 0x80008000u), 0x7b807b80u, 0x80008000u);
#endif
#endif
}

__device__ __forceinline__ void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if INPUT == 0 && HALF
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};" : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#elif INPUT == 0
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};" : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#elif CODES == 7
  asm("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};" : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  int d[4] = {__float_as_int(c[0]), __float_as_int(c[1]), __float_as_int(c[2]),
              __float_as_int(c[3])};  // whole numbers live in the same registers until the end
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};" : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#pragma unroll
  for (int i = 0; i < 4; ++i) c[i] = __int_as_float(d[i]);
#endif
}

__device__ __forceinline__ float wide(u16 bits) {
#if HALF
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(bits));
  return f;
#else
  return __uint_as_float(u32(bits) << 16);
#endif
}

__device__ __forceinline__ u16 narrow(float f) {
  u16 bits;
#if HALF
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(f));
#else
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(f));
#endif
  return bits;
}

// x / scale, rounded once: the product with the reciprocal, corrected by what is left.
__device__ __forceinline__ float divide(float x, float scale, float inverse) {
  const float q = x * inverse;
  return fmaf(fmaf(-q, scale, x), inverse, q);
}

// Eight values of x in 16 bits, rounded to eight codes.
__device__ __forceinline__ uint2 round8(uint4 x, float scale) {
  u32 v[4] = {x.x, x.y, x.z, x.w}, out[2];
  const float inverse = __fdividef(1.0f, scale);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float a = divide(wide(v[2 * i]), scale, inverse), b = divide(wide(v[2 * i] >> 16), scale, inverse);
    const float c = divide(wide(v[2 * i + 1]), scale, inverse);
    const float d = divide(wide(v[2 * i + 1] >> 16), scale, inverse);
#if CODES == 8
    int q[4] = {__float2int_rn(a), __float2int_rn(b), __float2int_rn(c), __float2int_rn(d)};
    u32 r = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) r |= u32(max(-127, min(127, q[j])) & 255) << (8 * j);
    out[i] = r;
#else
    u16 low, high;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(low) : "f"(b), "f"(a));
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(high) : "f"(d), "f"(c));
    out[i] = u32(low) | u32(high) << 16;
#endif
  }
  return make_uint2(out[0], out[1]);
}


// All threads meet, or the first WORKERS of them where a block has others beside.
__device__ __forceinline__ void meet() {
#ifdef WORKERS
  asm volatile("bar.sync 1, %0;" :: "n"(WORKERS) : "memory");
#else
  __syncthreads();
#endif
}

// The largest of what all threads of the block have; `parts` may be used again at once.
__device__ __forceinline__ float largest_of_block(float v, float* parts) {
#pragma unroll
  for (int s = 16; s; s >>= 1) v = fmaxf(v, __shfl_xor_sync(~0u, v, s));
  meet();  // who came before has been read
  if (!(threadIdx.x & 31)) parts[threadIdx.x >> 5] = v;
  meet();
#pragma unroll
  for (int w = 0; w < WARPS; ++w) v = fmaxf(v, parts[w]);
  return v;
}

struct Fragments {  // what one unit of 32 inputs contributes of 8 rows of x
  u32 b[WIDE ? 4 : 2];
};

__device__ __forceinline__ Fragments load_x(const void* x, i64 at, bool present) {
  Fragments f;
  if (WIDE) {
    uint4 v = make_uint4(0, 0, 0, 0);
    if (present) v = *reinterpret_cast<const uint4*>(static_cast<const u16*>(x) + at);
    f.b[0] = v.x, f.b[1] = v.y;
    f.b[WIDE ? 2 : 0] = WIDE ? v.z : f.b[0], f.b[WIDE ? 3 : 1] = WIDE ? v.w : f.b[1];
  } else {
    uint2 v = make_uint2(0, 0);
    if (present) v = *reinterpret_cast<const uint2*>(static_cast<const u8*>(x) + at);
    f.b[0] = v.x, f.b[1] = v.y;
  }
  return f;
}

// One unit of one tile: the codes' registers times x's.
__device__ __forceinline__ void add_unit(const Codes& codes, int unit, const Fragments (&f)[NT],
                                         float (&acc)[NT][4]) {
  if (WIDE) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      u32 a[4];
#if CODES == 4
      widen4(codes.w[2 * unit + j], a);
#elif CODES == 16
      const u32* w = codes.w + 8 * unit + 2 * j;  // of output g, and four words on of g + 8
      a[0] = w[0], a[1] = w[4], a[2] = w[1], a[3] = w[5];
#else
      widen8(codes.w[4 * unit + 2 * j], a[0], a[2]);
      widen8(codes.w[4 * unit + 2 * j + 1], a[1], a[3]);
#endif
#pragma unroll
      for (int n = 0; n < NT; ++n)
        multiply(acc[n], a, f[n].b[WIDE ? 2 * j : 0], f[n].b[WIDE ? 2 * j + 1 : 1]);
    }
  } else {
#if CODES < 16 && CODES != 4
    const u32 a[4] = {codes.w[2 * unit], codes.w[4 + 2 * unit], codes.w[2 * unit + 1],
                      codes.w[5 + 2 * unit]};
#pragma unroll
    for (int n = 0; n < NT; ++n) multiply(acc[n], a, f[n].b[0], f[n].b[1]);
#endif
  }
}

// A lane's codes of a chunk in flight.
__device__ __forceinline__ Codes codes_of(const uint4* slot, int m) {
  Codes codes;
#pragma unroll
  for (int i = 0; i < LOADS; ++i) {
    const uint4 v = slot[(m * LOADS + i) * 32 + (threadIdx.x & 31)];
    codes.w[4 * i] = v.x, codes.w[4 * i + 1] = v.y;
    codes.w[4 * i + 2] = v.z, codes.w[4 * i + 3] = v.w;
  }
  return codes;
}

// The sums of x where nobody has them: the matrix instructions add them up.
struct SumsOfProduct {};

// One chunk: tiles of codes times the rows of x. `row(m, unit, n)` gives x's fragments, which are the
// same for every tile m if ALIKE; `kind(m, part)` points at this lane's scale of a group (GROUP), 8
// on is that of output g + 8, and KIND on its offset. `sum(m, part)`: of the only row of x, over
// what shares a scale within the chunk.
template <int KIND, int TILES, bool ALIKE, typename Row, typename Scale, typename Sum = SumsOfProduct>
__device__ __forceinline__ void add_chunk(const Codes (&now)[TILES], const Scale& kind,
                                          const Row& row, float (&acc)[TILES][NT][4],
                                          const Sum& sum = Sum()) {
  constexpr int ROWS = ALIKE ? 1 : TILES;
  constexpr bool ADDS = (OFFSET || CODES == 4) && is_same<Sum, SumsOfProduct>;
#if GROUP
  float part[TILES][NT][4] = {};
  float plain[ROWS][NT][4] = {};
#else
  float (&part)[TILES][NT][4] = acc;
#endif
#pragma unroll
  for (int unit = 0; unit < 2; ++unit) {
    Fragments f[ROWS][NT];
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
#pragma unroll
      for (int n = 0; n < NT; ++n) f[r][n] = row(r, unit, n);
#pragma unroll
    for (int m = 0; m < TILES; ++m) add_unit(now[m], unit, f[ALIKE ? 0 : m], part[m]);
#if GROUP
    if constexpr (ADDS) {
      const u32 one = HALF ? 0x3c003c00u : 0x3f803f80u;
      const u32 ones[4] = {one, one, one, one};
#pragma unroll
      for (int r = 0; r < ROWS; ++r)
#pragma unroll
        for (int n = 0; n < NT; ++n) {
          multiply(plain[r][n], ones, f[r][n].b[0], f[r][n].b[1]);
          multiply(plain[r][n], ones, f[r][n].b[WIDE ? 2 : 0], f[r][n].b[WIDE ? 3 : 1]);
        }
    }
    if (PARTS == 2 || unit == 1) {
#pragma unroll
      for (int m = 0; m < TILES; ++m) {
        const auto k = kind(m, PARTS == 2 ? unit : 0);
        const float low = k[0], high = k[8];
        if constexpr (!is_same<Sum, SumsOfProduct>) {
          const float known = sum(m, PARTS == 2 ? unit : 0);
#pragma unroll
          for (int i = 0; i < 4; ++i) plain[ALIKE ? 0 : m][0][i] = known;
        }
#pragma unroll
        for (int n = 0; n < NT; ++n)
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float x = plain[ALIKE ? 0 : m][n][i];
            float value = part[m][n][i];
            if (CODES == 4) value -= BEYOND * x;
            acc[m][n][i] += value * (i < 2 ? low : high);
            if (OFFSET) acc[m][n][i] += x * (i < 2 ? k[KIND] : k[KIND + 8]);
            part[m][n][i] = 0.0f;
          }
      }
#pragma unroll
      for (int r = 0; r < ROWS; ++r)
#pragma unroll
        for (int n = 0; n < NT; ++n)
#pragma unroll
          for (int i = 0; i < 4; ++i) plain[r][n][i] = 0.0f;
    }
#endif
  }
}
