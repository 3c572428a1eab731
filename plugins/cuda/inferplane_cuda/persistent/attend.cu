#if MEMBERS
constexpr int EACH = SIZE / 32;          // dimensions of a head that a lane sums up
constexpr int ROW = SIZE + 8;            // of a head on-chip, so that rows fall on other banks
constexpr int LANE_PAIRS = (PAIRS + 31) / 32;

struct Met {  // on-chip, of one piece of attention
  u16 q[8 * ROW];
  u16 k[SIZE];
  u16 v[SIZE];
  float newest[MEMBERS];
  float peak[WARPS / 2][MEMBERS], total[WARPS / 2][MEMBERS];
  int last;
};

__device__ __forceinline__ void multiply16(float (&c)[4], u32 a0, u32 a2, u32 b0, u32 b1) {
#if HALF
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};" : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(0), "r"(a2), "r"(0), "r"(b0), "r"(b1));
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};" : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(0), "r"(a2), "r"(0), "r"(b0), "r"(b1));
#endif
}

// One warp: COUNT values of a head as they are.
template <int COUNT>
__device__ __forceinline__ void copy_head(const Left& left, i64 source, int start, u16* to) {
  const int lane = thread_here() & 31;
  constexpr int EACH_LANE = (COUNT + 31) / 32;
  u32 words[EACH_LANE];
  const auto place = [&](int i) { return start + min(lane + 32 * i, COUNT - 1); };
  bring_words(left, source, place, words);
#pragma unroll
  for (int i = 0; i < EACH_LANE; ++i)
    if (lane + 32 * i < COUNT) to[lane + 32 * i] = words[i] >> 16;
}

// One warp: a head from memory, its norm, its rotation.
__device__ __forceinline__ void turn_head(const Left& left, i64 source, int start, const float* weight,
                                          const float* cos, const float* sin, u16* to) {
  const int lane = thread_here() & 31;
#if PAIRS
  u32 words[2 * LANE_PAIRS];
  const auto place = [&](int i) { return start + min(lane + 32 * (i / 2), PAIRS - 1) + i % 2 * PAIRS; };
  bring_words(left, source, place, words);
  float a[LANE_PAIRS], b[LANE_PAIRS], squares = 0.0f;
#pragma unroll
  for (int j = 0; j < LANE_PAIRS; ++j) {
    const bool is_there = lane + 32 * j < PAIRS;
    a[j] = is_there ? wide(words[2 * j] >> 16) : 0.0f;
    b[j] = is_there ? wide(words[2 * j + 1] >> 16) : 0.0f;
    squares += a[j] * a[j] + b[j] * b[j];
  }
#if HEAD_NORM
#pragma unroll
  for (int s = 16; s; s >>= 1) squares += __shfl_xor_sync(~0u, squares, s);
  const float scale = rsqrtf(squares * (1.0f / float(SIZE)) + __int_as_float(EPS));
#endif
#pragma unroll
  for (int j = 0; j < LANE_PAIRS; ++j) {
    const int p = lane + 32 * j;
    if (p >= PAIRS) continue;
#if HEAD_NORM
    a[j] = wide(narrow(a[j] * scale * weight[p]));
    b[j] = wide(narrow(b[j] * scale * weight[PAIRS + p]));
#endif
    to[p] = narrow(a[j] * cos[p] - b[j] * sin[p]);
    to[PAIRS + p] = narrow(b[j] * cos[p] + a[j] * sin[p]);
  }
#endif
#if 2 * PAIRS < SIZE
  copy_head<SIZE - 2 * PAIRS>(left, source, start + 2 * PAIRS, to + 2 * PAIRS);
#endif
}

// The piece of the context that this block takes in its `turn`, or null: items lie longest first.
__device__ __forceinline__ const int* piece_of(const i64* s, int pair) {
  const int items = int(s[0] >> 32);
  if (pair >= items * KV_HEADS) return nullptr;
  const int* item = reinterpret_cast<const int*>(s[10]) + pair / KV_HEADS * 8;
  return item[0] < 0 ? nullptr : item;
}

__device__ __forceinline__ i64 line_of(const int* table, int token, int head) {
  return (i64(table[token / PAGE]) * PAGE + token % PAGE) * KV_HEADS + head;
}

// Keys and values of eight tokens: of key 4g + t has 8 of each 32 dimensions, of each value EACH.
struct Tokens {
  uint4 keys[SIZE / 32];
  u32 values[8][EACH / 2];
};

__device__ __forceinline__ void read_tokens(Tokens& tokens, const i64* s, const int* item, int head,
                                            int base) {
  const int lane = thread_here() & 31, t = lane & 3;
  const int token = min(base + (lane >> 2), item[2] - 1);
  const i64 line = line_of(reinterpret_cast<const int*>(s[11]), token, head) * SIZE;
  const u16* const k_cache = reinterpret_cast<const u16*>(s[4]);
  const u16* const v_cache = reinterpret_cast<const u16*>(s[5]);
#pragma unroll
  for (int u = 0; u < SIZE / 32; ++u) tokens.keys[u] = fresh16(k_cache + line + 32 * u + 8 * t);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const u16* from = v_cache + __shfl_sync(~0u, line, 4 * j) + lane * EACH;
#pragma unroll
    for (int e = 0; e < EACH / 2; ++e)
      tokens.values[j][e] = __ldg(reinterpret_cast<const u32*>(from) + e);
  }
}

// What this block will read first of the cache depends on nobody: it comes while others finish.
__device__ __forceinline__ void read_ahead(Tokens& tokens, const i64* s) {
  const int* item = piece_of(s, blockIdx.x);
  const int base = item ? item[1] + 8 * int(threadIdx.x >> 5) : 0;
  if (item && base < item[2]) read_tokens(tokens, s, item, blockIdx.x % KV_HEADS, base);
#if PAIRS
  if (threadIdx.x * 32 < PAIRS) {
    asm volatile("prefetch.global.L1 [%0];" :: "l"(s[12] + threadIdx.x * 128));
    asm volatile("prefetch.global.L1 [%0];" :: "l"(s[13] + threadIdx.x * 128));
  }
#endif
}

// Flash-Decoding (Dao et al. 2023): pieces of the context, put together by who is done last.
__device__ __forceinline__ void attend(const i64* s, const Left& left, Met& met, float* found,
                                       Tokens& tokens) {
  const int thread = thread_here(), lane = thread & 31, warp = thread >> 5, g = lane >> 2, t = lane & 3;
  const int* const table = reinterpret_cast<const int*>(s[11]);
  const float* const cos = reinterpret_cast<const float*>(s[12]);
  const float* const sin = reinterpret_cast<const float*>(s[13]);
  u16* const k_cache = reinterpret_cast<u16*>(s[4]);
  u16* const v_cache = reinterpret_cast<u16*>(s[5]);
  const float to_log2 = __int_as_float(SCALE);

  for (int pair = blockIdx.x;; pair += gridDim.x) {
    const int* const item = piece_of(s, pair);
    if (!item) return;
    const int head = pair % KV_HEADS, start = item[1], stop = item[2], position = item[6];

    if (warp < 8) {
      u16* const row = met.q + warp * ROW;
      if (warp < MEMBERS) {
        const float* const weight = reinterpret_cast<const float*>(s[14]);
        turn_head(left, s[1], (head * MEMBERS + warp) * SIZE, weight, cos, sin, row);
      } else {
        for (int d = lane; d < SIZE; d += 32) row[d] = 0;
      }
    } else if (warp == 8 && position >= 0) {
      turn_head(left, s[2], head * SIZE, reinterpret_cast<const float*>(s[15]), cos, sin, met.k);
      __syncwarp();
      const i64 line = line_of(table, position, head) * SIZE;
      for (int d = lane; d < SIZE; d += 32) k_cache[line + d] = met.k[d];
    } else if (warp == 9 && position >= 0) {
      const i64 line = line_of(table, position, head) * SIZE;
      copy_head<SIZE>(left, s[3], head * SIZE, met.v);
      __syncwarp();
      for (int d = lane; d < SIZE; d += 32) v_cache[line + d] = met.v[d];
    }
    meet();

    if (warp < MEMBERS && position >= 0) {
      float score = 0.0f;
      for (int d = lane; d < SIZE; d += 32) score += wide(met.q[warp * ROW + d]) * wide(met.k[d]);
#pragma unroll
      for (int x = 16; x; x >>= 1) score += __shfl_xor_sync(~0u, score, x);
      if (!lane) met.newest[warp] = score * to_log2;
    }

    // Lane 4g + t: scores of query head g and tokens 2t, 2t + 1 of eight; sums of EACH dimensions.
    float peak = __int_as_float(0xff800000), total = 0.0f, acc[MEMBERS][EACH] = {};
    if (pair != blockIdx.x && start + 8 * warp < stop)
      read_tokens(tokens, s, item, head, start + 8 * warp);
    for (int base = start + 8 * warp; base < stop; base += 8 * WARPS) {
      float c[4] = {};
#pragma unroll
      for (int u = 0; u < SIZE / 32; ++u) {
        const uint4 q = *reinterpret_cast<const uint4*>(met.q + g * ROW + 32 * u + 8 * t);
        multiply16(c, q.x, q.y, tokens.keys[u].x, tokens.keys[u].y);
        multiply16(c, q.z, q.w, tokens.keys[u].z, tokens.keys[u].w);
      }
      c[0] = base + 2 * t < stop ? c[0] * to_log2 : __int_as_float(0xff800000);
      c[1] = base + 2 * t + 1 < stop ? c[1] * to_log2 : __int_as_float(0xff800000);
      float top = fmaxf(c[0], c[1]);
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
      top = fmaxf(peak, fmaxf(top, __shfl_xor_sync(~0u, top, 2)));
      const float shrink = power2(peak - top);
      const float weight[2] = {power2(c[0] - top), power2(c[1] - top)};
      total = total * shrink + weight[0] + weight[1];
      peak = top;
#pragma unroll
      for (int h = 0; h < MEMBERS; ++h) {
        const float less = __shfl_sync(~0u, shrink, 4 * h);
#pragma unroll
        for (int e = 0; e < EACH; ++e) acc[h][e] *= less;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const float w = __shfl_sync(~0u, weight[j & 1], 4 * h + (j >> 1));
#pragma unroll
          for (int e = 0; e < EACH; ++e)
            acc[h][e] += w * wide(u16(e & 1 ? tokens.values[j][e / 2] >> 16 : tokens.values[j][e / 2]));
        }
      }
      if (base + 8 * WARPS < stop) read_tokens(tokens, s, item, head, base + 8 * WARPS);
    }
    total += __shfl_xor_sync(~0u, total, 1);
    total += __shfl_xor_sync(~0u, total, 2);
    constexpr int HALF_OF_WARPS = WARPS / 2;  // they take over what the others have found
    float* const mine = found + (warp % HALF_OF_WARPS) * MEMBERS * SIZE + lane * EACH;
    if (warp >= HALF_OF_WARPS) {
      const int to = warp - HALF_OF_WARPS;
      if (t == 0 && g < MEMBERS) met.peak[to][g] = peak, met.total[to][g] = total;
#pragma unroll
      for (int h = 0; h < MEMBERS; ++h)
#pragma unroll
        for (int e = 0; e < EACH; ++e) mine[h * SIZE + e] = acc[h][e];
    }
    meet();
    if (warp < HALF_OF_WARPS) {
      const float there = met.peak[warp][g % MEMBERS];
      const float top = fmaxf(fmaxf(peak, there), -3e38f);  // neither may have seen a token
      const float keep = power2(peak - top), take = power2(there - top);
      total = total * keep + met.total[warp][g % MEMBERS] * take;
      __syncwarp();
      if (t == 0 && g < MEMBERS) met.peak[warp][g] = top, met.total[warp][g] = total;
#pragma unroll
      for (int h = 0; h < MEMBERS; ++h) {
        const float less = __shfl_sync(~0u, keep, 4 * h), more = __shfl_sync(~0u, take, 4 * h);
#pragma unroll
        for (int e = 0; e < EACH; ++e)
          mine[h * SIZE + e] = acc[h][e] * less + mine[h * SIZE + e] * more;
      }
    }
    meet();

    const int pieces = item[5];
    const i64 at = (i64(item[3]) * KV_HEADS + head) * MEMBERS;
    float* const part = reinterpret_cast<float*>(s[7]) + at * SIZE;
    float* const stat = reinterpret_cast<float*>(s[8]) + at * 2;
    const auto store = [&](int i, float value) {
      const int at = head * MEMBERS * SIZE + i;
      if (s[6]) reinterpret_cast<u16*>(s[6])[at] = narrow(value);
      left.leave(u32(s[16]), at, narrow(value));
    };
    for (int i = thread; i < MEMBERS * SIZE; i += THREADS) {
      const int h = i / SIZE, d = i % SIZE;
      float top = position >= 0 ? met.newest[h] : __int_as_float(0xff800000);
#pragma unroll
      for (int w = 0; w < HALF_OF_WARPS; ++w) top = fmaxf(top, met.peak[w][h]);
      float sum = 0.0f, value = 0.0f;
      if (position >= 0) sum = power2(met.newest[h] - top), value = sum * wide(met.v[d]);
#pragma unroll
      for (int w = 0; w < HALF_OF_WARPS; ++w) {
        const float share = power2(met.peak[w][h] - top);
        sum += share * met.total[w][h];
        value += share * found[(w * MEMBERS + h) * SIZE + d];
      }
      if (pieces == 1) {
        store(i, __fdividef(value, sum));
      } else {
        part[i] = value;
        if (!d) stat[2 * h] = top, stat[2 * h + 1] = sum;
      }
    }
    if (pieces > 1) {
      int* const counter = reinterpret_cast<int*>(s[9]) + head;
      meet();
      if (!threadIdx.x) {
        int before;
        asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"  // from the last on to 0
                     : "=r"(before) : "l"(counter), "r"(pieces - 1) : "memory");
        met.last = before == pieces - 1;
      }
      meet();
      if (met.last) {
        const i64 first = (i64(item[4]) * KV_HEADS + head) * MEMBERS;
        const float* const parts = reinterpret_cast<const float*>(s[7]) + first * SIZE;
        const float* const stats = reinterpret_cast<const float*>(s[8]) + first * 2;
        constexpr int NEXT = KV_HEADS * MEMBERS;
        for (int i = thread; i < MEMBERS * SIZE; i += THREADS) {
          const int h = i / SIZE;
          float top = __int_as_float(0xff800000), sum = 0.0f, value = 0.0f;
#pragma unroll 8
          for (int p = 0; p < pieces; ++p) {
            const float there = __uint_as_float(fresh4(stats + (p * NEXT + h) * 2));
            const float more = __uint_as_float(fresh4(stats + (p * NEXT + h) * 2 + 1));
            const float found_there = __uint_as_float(fresh4(parts + i64(p) * NEXT * SIZE + i));
            const float higher = fmaxf(top, there);
            const float old = power2(top - higher), share = power2(there - higher);
            sum = sum * old + share * more;
            value = value * old + share * found_there;
            top = higher;
          }
          store(i, __fdividef(value, sum));
        }
      }
    }
    meet();  // on-chip memory is free again
  }
}
#endif
