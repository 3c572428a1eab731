// What one lane, or a warp together, asks of the device by its own instructions.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;

__device__ __forceinline__ float widen16(u32 bits) {
#if HALF
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(u16(bits)));
  return f;
#else
  return __uint_as_float(bits << 16);
#endif
}

__device__ __forceinline__ u16 narrow16(float x) {
  u16 bits;
#if HALF
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
#else
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
#endif
  return bits;
}

__device__ __forceinline__ float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ u32 pack_halves(float low, float high) {
  u32 both;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}

// Four codes -> two pairs of float16.
__device__ __forceinline__ void widen(u32 codes, u32& low, u32& high) {
#if LARGEST == 127
  const u32 shifted = codes ^ 0x80808080u;  // code + 128, then the last bits of 1024
  low = __byte_perm(shifted, 0x64646464u, 0x4140), high = __byte_perm(shifted, 0x64646464u, 0x4342);
  asm("sub.f16x2 %0, %0, %1;" : "+r"(low) : "r"(0x64806480u));
  asm("sub.f16x2 %0, %0, %1;" : "+r"(high) : "r"(0x64806480u));
#else
  asm("{ .reg .b16 a, b; mov.b32 {a, b}, %2; cvt.rn.f16x2.e4m3x2 %0, a; "
      "cvt.rn.f16x2.e4m3x2 %1, b; }" : "=r"(low), "=r"(high) : "r"(codes));
#endif
}

// c[16, 8] += a[16, 16] b[16, 8].
__device__ __forceinline__ void multiply(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0,
                                         u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};" : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

template <int BYTES>
__device__ __forceinline__ void bring(void* to, const void* from, bool present) {
  const u32 at = u32(__cvta_generic_to_shared(to));
  if (BYTES == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(at), "l"(from), "r"(present ? 16 : 0) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
                 :: "r"(at), "l"(from), "n"(BYTES), "r"(present ? BYTES : 0) : "memory");
}

__device__ __forceinline__ float log_of_two(float x) {
  asm("lg2.approx.f32 %0, %0;" : "+f"(x));
  return x;
}

// Two float16 -> float32.
__device__ __forceinline__ void part_halves(u32 both, float& low, float& high) {
  asm("{ .reg .b16 a, b; mov.b32 {a, b}, %2; cvt.f32.f16 %0, a; cvt.f32.f16 %1, b; }"
      : "=f"(low), "=f"(high) : "r"(both));
}

// Two numbers within the range of the codes -> codes, half to even.
__device__ __forceinline__ u32 as_codes(float a, float b) {
#if LARGEST == 127
  return (u32(__float2int_rn(a)) & 255) | (u32(__float2int_rn(b)) & 255) << 8;
#else
  u16 both;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(both) : "f"(b), "f"(a));
  return both;
#endif
}

// Ends a group of copies.
__device__ __forceinline__ void end_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for this lane's copies but those of the last LATER groups.
template <int LATER>
__device__ __forceinline__ void await_groups() {
  asm volatile("cp.async.wait_group %0;" :: "n"(LATER) : "memory");
}

// The kernel in front has ended and what it wrote can be read.
__device__ __forceinline__ void await_neighbour() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
