// The weights alone. `codes.cu` comes first.

#if INPUT == 0
// The weights in 16 bits, out[O, I]: lane by lane what `stream` would multiply.
constexpr float ABOVE = CODES == 4 ? BEYOND : 0.0f;  // of each widened code

extern "C" __global__ void __launch_bounds__(32 * WARPS)
widen(const uint4* codes, const float* scales, const float* offsets, u16* out, int outputs,
      int inputs) {
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  const int chunks = inputs / 64, chunk = blockIdx.x * WARPS + (threadIdx.x >> 5);
  if (chunk >= chunks) return;
  Codes c;
#pragma unroll
  for (int i = 0; i < LOADS; ++i) {
    const uint4 v = codes[((i64(blockIdx.y) * chunks + chunk) * LOADS + i) * 32 + lane];
    c.w[4 * i] = v.x, c.w[4 * i + 1] = v.y, c.w[4 * i + 2] = v.z, c.w[4 * i + 3] = v.w;
  }
#pragma unroll
  for (int unit = 0; unit < 2; ++unit) {
    const int column = chunk * 64 + unit * 32;
    u32 a[2][4];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#if CODES == 4
      widen4(c.w[2 * unit + j], a[j]);
#else
      widen8(c.w[4 * unit + 2 * j], a[j][0], a[j][2]);
      widen8(c.w[4 * unit + 2 * j + 1], a[j][1], a[j][3]);
#endif
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int output = blockIdx.y * 16 + g + 8 * half;
      if (output >= outputs) continue;
#if GROUP
      const i64 at = (i64(output / 32) * (inputs / GROUP) + column / GROUP) * 32 + output % 32;
#else
      const i64 at = output;
#endif
      const float scale = scales[at];
#if OFFSET
      const float more = offsets[at];
#else
      const float more = 0.0f;
#endif
      u32 words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const u32 pair = a[i >> 1][half + 2 * (i & 1)];
        words[i] = u32(narrow((wide(pair) - ABOVE) * scale + more)) |
                   u32(narrow((wide(pair >> 16) - ABOVE) * scale + more)) << 16;
      }
      *reinterpret_cast<uint4*>(out + i64(output) * inputs + column + 8 * t) =
          make_uint4(words[0], words[1], words[2], words[3]);
    }
  }
}
#endif
