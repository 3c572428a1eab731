// int4 by whole numbers. x is rounded to 16 bits by a scale for every ALIKE inputs and cut into two
// halves of 8, which are two columns of one product: x = scale * (256 * high + low). A nibble stays
// where it is: of a byte, the lower is a code of output g and the upper, sixteen times as much, one of
// output g + 8. What is too much, 8 a code, is taken back with the sum of x.

constexpr float MOST = 32000.0f;  // of x rounded: 128 of them times 240 stay below 2^30

struct Rounded {  // of ALIKE inputs
  int sum;
  float scale;
};

__device__ __forceinline__ void multiply_halves(int (&c)[4], u32 low, u32 high, u32 b0, u32 b1) {
  constexpr u32 LOWER = 0x0f0f0f0fu, UPPER = 0xf0f0f0f0u;
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};" : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(low & LOWER), "r"(low & UPPER), "r"(high & LOWER), "r"(high & UPPER), "r"(b0), "r"(b1));
}

// Eight inputs on-chip: of each 64, the high halves of two units for t = 0 .. 3, then the low ones.
// Bytes 1 and 2 of each four change places, as nibbles have. Lanes of ALIKE inputs come together.
__device__ __forceinline__ void keep_halves(uint4 x, int i, uint2* held, Rounded* sums) {
  const u32 p[4] = {x.x, x.y, x.z, x.w};
  float peak = 0.0f;
#pragma unroll
  for (int k = 0; k < 4; ++k) peak = fmaxf(peak, fmaxf(fabsf(wide(p[k])), fabsf(wide(p[k] >> 16))));
  constexpr int LANES = ALIKE / 8;
  const u32 together = (LANES == 16 ? 0xffffu : (1u << LANES) - 1) << (threadIdx.x & 32 - LANES);
#pragma unroll
  for (int k = 1; k < LANES; k *= 2) peak = fmaxf(peak, __shfl_xor_sync(together, peak, k));
  const float back = peak > 0.0f ? __fdividef(MOST, peak) : 0.0f;
  int sum = 0;
  u32 high[2], low[2];
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    const int r[4] = {__float2int_rn(wide(p[2 * k]) * back), __float2int_rn(wide(p[2 * k] >> 16) * back),
                      __float2int_rn(wide(p[2 * k + 1]) * back),
                      __float2int_rn(wide(p[2 * k + 1] >> 16) * back)};
    u32 up[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) sum += r[j], up[j] = u32(r[j] + 128);
    const u32 first = __byte_perm(up[0], up[2], 0x0051), second = __byte_perm(up[1], up[3], 0x0051);
    high[k] = __byte_perm(first, second, 0x5410);
    low[k] = __byte_perm(__byte_perm(r[0], r[2], 0x0040), __byte_perm(r[1], r[3], 0x0040), 0x5410);
  }
#pragma unroll
  for (int k = 1; k < LANES; k *= 2) sum += __shfl_xor_sync(together, sum, k);
  const int to = (i >> 3) * 16 + (i & 3) * 2 + (i >> 2 & 1);
  held[to] = make_uint2(high[0], high[1]);
  held[to + 8] = make_uint2(low[0], low[1]);
  if (i % LANES == 0) sums[i / LANES] = {sum, peak * (1.0f / MOST)};
}

// A warp's share of COUNT panels, times the row; `column` is the first of its `inputs`. All that is
// wanted of a slot is read, and the slot released, before the first product: every warp has a part of every slot,
// so that what one takes from slot to slot is what the ring takes.
template <int COUNT, typename Release>
__device__ __forceinline__ void add_halves(u32 panels, u32 codes, u32 x, u32 sums, int column, int apart,
                                           int inputs, const int (&half)[2],
                                           float (&acc)[COUNT][1][4], const Release& release) {
  constexpr int RUNS = 128 / ALIKE;  // of inputs rounded alike
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2;
  uint4 w[COUNT][2], b[COUNT][2] = {};
#pragma unroll
  for (int m = 0; m < COUNT; ++m)
#pragma unroll
    for (int chunk = 0; chunk < 2; ++chunk)
      w[m][chunk] = shared16(panels + m * PANEL_BYTES + codes + chunk * 512);
#pragma unroll
  for (int r = 0; r < RUNS; ++r) {
    int sum[COUNT], c[COUNT][4] = {};
    float scale[COUNT], of_group[COUNT][2 * KINDS];
#pragma unroll
    for (int m = 0; m < COUNT; ++m) {
      const u32 number = u32(column + m * apart) / ALIKE + r;
      asm volatile("ld.shared.v2.b32 {%0,%1}, [%2];" : "=r"(sum[m]), "=f"(scale[m])
                   : "r"(sums + number * 8));
#pragma unroll
      for (int k = 0; k < 2 * KINDS; ++k) {
        const int group = (warp * 128 + r * ALIKE) / (GROUP ? GROUP : 1) * 32 + half[m] + g;
        const u32 kinds = panels + m * PANEL_BYTES + CODE_BYTES + 4 * group;
        of_group[m][k] = GROUP ? SharedFloats{kinds}[k / 2 * (SCALE_BYTES / 4) + k % 2 * 8] : 1.0f;
      }
    }
    if (r + 1 == RUNS) release();
    if (!r && g < 2) {
#pragma unroll
      for (int m = 0; m < COUNT; ++m)
#pragma unroll
        for (int chunk = 0; chunk < 2; ++chunk)
          b[m][chunk] = shared16(x + 2 * (column + m * apart) + 128 * chunk);
    }
#pragma unroll
    for (int unit = r * 4 / RUNS; unit < (r + 1) * 4 / RUNS; ++unit)
#pragma unroll
      for (int m = 0; m < COUNT; ++m) {
        const uint4 &v = w[m][unit >> 1], &y = b[m][unit >> 1];
        if (unit & 1) multiply_halves(c[m], v.z, v.w, y.z, y.w);
        else multiply_halves(c[m], v.x, v.y, y.x, y.y);
      }
#pragma unroll
    for (int m = 0; m < COUNT; ++m) {
      if (ALIKE < 128 && column + m * apart + r * ALIKE >= inputs) continue;
      const float low = float(c[m][0] * 256 + c[m][1] - 8 * sum[m]) * scale[m];
      const float high = float(c[m][2] * 256 + c[m][3] - 128 * sum[m]) * (scale[m] * 0.0625f);
      acc[m][0][0] += low * of_group[m][0], acc[m][0][2] += high * of_group[m][1];
#if OFFSET
      const float whole = float(sum[m]) * scale[m];
      acc[m][0][0] += whole * of_group[m][2], acc[m][0][2] += whole * of_group[m][3];
#endif
    }
  }
}
