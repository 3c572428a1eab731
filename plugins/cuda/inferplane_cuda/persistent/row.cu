// Eight values of a row for who reads them later, in this launch (`place`) or after it (`to`).
__device__ __forceinline__ void give_away(const Left& left, i64 to, u32 place, int at, uint4 v) {
  if (to) *reinterpret_cast<uint4*>(reinterpret_cast<u16*>(to) + at) = v;
  const u32 a[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    left.leave(place, at + 2 * k, u16(a[k]));
    left.leave(place, at + 2 * k + 1, a[k] >> 16);
  }
}

// x of a matrix: brought on-chip by every block anew, with the norm or gate in front of it. One
// block, the owner, also writes down what others may want to read.
__device__ __forceinline__ float bring_row(const i64* s, const Left& left, uint4* held, float* parts,
                                           float* sums, bool owner) {
  const int before = int(s[0] >> 8) & 255, inputs = int(s[11] >> 32);
  uint4 kept[KEEP];  // each thread's share of the row
  float squares = 0.0f;
  const int first = thread_here();
  const float* const weight = reinterpret_cast<const float*>(s[3]) + 8 * first;
  const i64 second = before == NORM ? s[2] : before == SILU ? s[1] + 2 * inputs : 0;
  uint4 more[1] = {};  // what is there already comes first; most rows have one share of it
  if (before == NORM && 8 * first < inputs)  // a line of weights for four threads
    asm volatile("prefetch.global.L1 [%0];" :: "l"(weight));
  if (second) bring_share(left, second, 8 * first, inputs, more);
#pragma unroll
  for (int j = 0; j + 1 < KEEP; j += 2)  // two at once are what registers hold
    bring_share(left, s[1], 8 * (first + j * THREADS), inputs, reinterpret_cast<uint4 (&)[2]>(kept[j]));
  if (KEEP % 2)
    bring_share(left, s[1], 8 * (first + (KEEP - 1) * THREADS), inputs,
                reinterpret_cast<uint4 (&)[1]>(kept[KEEP - 1]));
  if (before != NOTHING) {
#pragma unroll
    for (int j = 0; j < KEEP; ++j) {
      const int at = 8 * (first + j * THREADS);
      if (at >= inputs) continue;
      if (j && second) bring_share(left, second, at, inputs, more);
      u32 a[4] = {kept[j].x, kept[j].y, kept[j].z, kept[j].w};
      const u32 b[4] = {more[0].x, more[0].y, more[0].z, more[0].w};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        float low = wide(a[k]), high = wide(a[k] >> 16);
        if (before == SILU) low = silu(low) * wide(b[k]), high = silu(high) * wide(b[k] >> 16);
        else low += wide(b[k]), high += wide(b[k] >> 16);
        a[k] = pair_of(low, high);
        low = wide(a[k]), high = wide(a[k] >> 16);
        squares += low * low + high * high;
      }
      kept[j] = make_uint4(a[0], a[1], a[2], a[3]);
    }
  }
  if (before == NORM) {
    const float eps = __int_as_float(int(s[12]));
    const float scale = rsqrtf(__fdividef(sum_of_block(squares, parts), float(inputs)) + eps);
#pragma unroll
    for (int j = 0; j < KEEP; ++j) {
      const int at = 8 * (first + j * THREADS);
      if (at >= inputs) continue;
      if (owner) give_away(left, s[9], u32(s[17] >> 32), at, kept[j]);
      const float4 w0 = __ldg(reinterpret_cast<const float4*>(weight + 8 * j * THREADS));
      const float4 w1 = __ldg(reinterpret_cast<const float4*>(weight + 8 * j * THREADS + 4));
      const u32 a[4] = {kept[j].x, kept[j].y, kept[j].z, kept[j].w};
      kept[j].x = pair_of(wide(a[0]) * scale * w0.x, wide(a[0] >> 16) * scale * w0.y);
      kept[j].y = pair_of(wide(a[1]) * scale * w0.z, wide(a[1] >> 16) * scale * w0.w);
      kept[j].z = pair_of(wide(a[2]) * scale * w1.x, wide(a[2] >> 16) * scale * w1.y);
      kept[j].w = pair_of(wide(a[3]) * scale * w1.z, wide(a[3] >> 16) * scale * w1.w);
    }
  }
  if (owner && before != NOTHING) {
#pragma unroll
    for (int j = 0; j < KEEP; ++j) {
      const int at = 8 * (first + j * THREADS);
      if (at < inputs) give_away(left, s[10], u32(s[17]), at, kept[j]);
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
  constexpr int FILLED = STRAIGHT ? (DENSE ? 512 : 1024) : HALVED ? 128 : 8;  // with zeros
#pragma unroll
  for (int j = 0; j < KEEP; ++j) {
    const int i = first + j * THREADS;
    if (8 * i >= (inputs + FILLED - 1) / FILLED * FILLED) continue;
#if HALVED
    keep_halves(kept[j], i, reinterpret_cast<uint2*>(held), reinterpret_cast<Rounded*>(sums));
#elif STRAIGHT && CODES == 7
    reinterpret_cast<uint2*>(held)[2 * place_of_piece(i >> 1) + (i & 1)] = round8(kept[j], scale);
#elif STRAIGHT
    held[place_of_piece(i)] = kept[j];
#elif INPUT == 1
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
#if STRAIGHT
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
  meet();
  return scale;
}
