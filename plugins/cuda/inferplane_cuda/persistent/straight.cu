#if STRAIGHT
// Four warps multiply 8 outputs by 1024 bytes of inputs at once, and no code passes through a register:
// a matrix instruction (wgmma) wants 64 rows, which are eight stretches of 128 bytes of each output, and
// eight columns, which are the same stretches of x. What counts of its results is the diagonal.
// On-chip a stretch of eight outputs is 1024 bytes, 128 each; pieces of 16 bytes change places within a
// line by its number (the 128-byte swizzle), so that neither side meets itself on a bank.
constexpr int BLOCK = 8192;  // bytes of eight outputs and eight stretches

__device__ __forceinline__ u64 described(u32 at) {  // swizzled; eight rows every 1024 bytes
  return u64(at >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}

// c = a times b, plus c where it ADDS.
template <bool ADDS>
__device__ __forceinline__ void multiply_straight(float (&c)[4], u64 a, u64 b) {
#if CODES == 7
#define KIND_OF "m64n8k32.f32.e4m3.e4m3"
#define AS_THEY_LIE "1, 1"
#elif HALF
#define KIND_OF "m64n8k16.f32.f16.f16"
#define AS_THEY_LIE "1, 1, 0, 0"
#else
#define KIND_OF "m64n8k16.f32.bf16.bf16"
#define AS_THEY_LIE "1, 1, 0, 0"
#endif
  asm volatile("{ .reg .pred p; setp.ne.u32 p, %6, 0; wgmma.mma_async.sync.aligned." KIND_OF
               " {%0,%1,%2,%3}, %4, %5, p, " AS_THEY_LIE "; }"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "l"(a), "l"(b), "n"(ADDS));
}

// Codes at `block`, x at `row`, both of 1024 bytes of inputs. Sums of fp8 have 14 bits in these
// instructions, so no more than four of them follow each other.
__device__ __forceinline__ void add_straight(u32 block, u32 row, float (&sum)[4]) {
  float c[4] = {};
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // they were written as plain memory
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  const u64 a = described(block), b = described(row);
  multiply_straight<false>(c, a, b);
#pragma unroll
  for (int k = 1; k < 4; ++k) multiply_straight<true>(c, a + 2 * k, b + 2 * k);  // 32 bytes each
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  asm volatile("wgmma.wait_group.sync.aligned 0;"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) :: "memory");
#pragma unroll
  for (int i = 0; i < 4; i += 3) sum[i] += c[i];  // the others are off the diagonal
}

// Where piece `piece` of 16 bytes of a row of x lies, counted in pieces.
__device__ __forceinline__ int place_of_piece(int piece) {
  return piece & ~7 | (piece ^ piece >> 3) & 7;
}
#endif
