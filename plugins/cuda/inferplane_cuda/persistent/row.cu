// x of a matrix: brought on-chip by every block anew, with the norm or gate in front of it. One
// block, the owner, also writes down what others may want to read.
__device__ __forceinline__ float bring_row(const i64* s, uint4* held, float* parts, float* sums,
                                           bool owner) {
  const int before = int(s[0] >> 8) & 255, inputs = int(s[11] >> 32);
  const u16* const x = reinterpret_cast<const u16*>(s[1]);
  uint4 kept[KEEP];  // each thread's share of the row
  float squares = 0.0f;
  int first = threadIdx.x;
  asm volatile("" : "+r"(first));  // else places of the row are computed once and kept too long
#pragma unroll
  for (int j = 0; j < KEEP; ++j) {
    const int at = 8 * (first + j * THREADS);
    kept[j] = make_uint4(0, 0, 0, 0);
    if (at >= inputs) continue;
    uint4 v = fresh16(x + at);
    u32 a[4] = {v.x, v.y, v.z, v.w};
    if (before == NORM) {
      if (s[2]) {
        v = fresh16(reinterpret_cast<const u16*>(s[2]) + at);
        const u32 r[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int k = 0; k < 4; ++k)
          a[k] = pair_of(wide(a[k]) + wide(r[k]), wide(a[k] >> 16) + wide(r[k] >> 16));
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float low = wide(a[k]), high = wide(a[k] >> 16);
        squares += low * low + high * high;
      }
    } else if (before == SILU) {
      v = fresh16(x + inputs + at);
      const u32 up[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float low = wide(a[k]), high = wide(a[k] >> 16);
        a[k] = pair_of(silu(low) * wide(up[k]),
                       silu(high) * wide(up[k] >> 16));
      }
    }
    kept[j] = make_uint4(a[0], a[1], a[2], a[3]);
  }
  if (before == NORM) {
    const float eps = __int_as_float(int(s[12]));
    const float scale = rsqrtf(__fdividef(sum_of_block(squares, parts), float(inputs)) + eps);
    const float* const weight = reinterpret_cast<const float*>(s[3]);
#pragma unroll
    for (int j = 0; j < KEEP; ++j) {
      const int at = 8 * (first + j * THREADS);
      if (at >= inputs) continue;
      if (owner && s[9]) *reinterpret_cast<uint4*>(reinterpret_cast<u16*>(s[9]) + at) = kept[j];
      const float4 w0 = *reinterpret_cast<const float4*>(weight + at);
      const float4 w1 = *reinterpret_cast<const float4*>(weight + at + 4);
      const u32 a[4] = {kept[j].x, kept[j].y, kept[j].z, kept[j].w};
      kept[j].x = pair_of(wide(a[0]) * scale * w0.x, wide(a[0] >> 16) * scale * w0.y);
      kept[j].y = pair_of(wide(a[1]) * scale * w0.z, wide(a[1] >> 16) * scale * w0.w);
      kept[j].z = pair_of(wide(a[2]) * scale * w1.x, wide(a[2] >> 16) * scale * w1.y);
      kept[j].w = pair_of(wide(a[3]) * scale * w1.z, wide(a[3] >> 16) * scale * w1.w);
    }
  }
  if (owner && s[10]) {
#pragma unroll
    for (int j = 0; j < KEEP; ++j) {
      const int at = 8 * (first + j * THREADS);
      if (at < inputs) *reinterpret_cast<uint4*>(reinterpret_cast<u16*>(s[10]) + at) = kept[j];
    }
  }
  float scale = 1.0f;
#if INPUT == 1
#if GIVEN
  scale = *reinterpret_cast<const float*>(s[13]);
#else
  float peak = 0.0f;
#pragma unroll
  for (int j = 0; j < KEEP; ++j) {
    const u32 p[4] = {kept[j].x, kept[j].y, kept[j].z, kept[j].w};
#pragma unroll
    for (int k = 0; k < 4; ++k) peak = fmaxf(peak, fmaxf(fabsf(wide(p[k])), fabsf(wide(p[k] >> 16))));
  }
  constexpr float MOST = CODES == 8 ? 127.0f : 448.0f;
  scale = fmaxf(divide(largest_of_block(peak, parts), MOST, 1.0f / MOST), 1e-12f);
#endif
#endif
#pragma unroll
  for (int j = 0; j < KEEP; ++j) {
    const int i = first + j * THREADS;
    if (8 * i >= inputs) continue;
#if INPUT == 1
    reinterpret_cast<uint2*>(held)[i] = round8(kept[j], scale);
#else
    held[i] = kept[j];
#if SUMMED
    const u32 p[4] = {kept[j].x, kept[j].y, kept[j].z, kept[j].w};
    float sum = 0.0f;  // of SUMMED inputs; rows are whole multiples of 64
#pragma unroll
    for (int k = 0; k < 4; ++k) sum += wide(p[k]) + wide(p[k] >> 16);
#pragma unroll
    for (int k = 1; k < SUMMED / 8; k *= 2)
      sum += __shfl_xor_sync(SUMMED == 32 ? 15u << (threadIdx.x & 28) : 255u << (threadIdx.x & 24), sum, k);
    if (i % (SUMMED / 8) == 0) sums[i / (SUMMED / 8)] = sum;
#endif
#endif
  }
  meet();
  return scale;
}
