// Attention of one new token per sequence over a paged cache in 8 bits.
//
// What the kernel of `inferplane_triton.device.decode` computes, for the same work list, but codes
// go from memory to the matrix instructions without being rearranged, and a warp waits for no other.
// Codes are widened to float16, which holds all of them.
//
// lane = 4 * g + t. A product numbers the dimensions of a head otherwise than memory does, but a sum
// does not care as long as both factors agree: of a key, lane (g, t) holds 16 neighbours of token g,
// of values 16 (or 8) neighbours from 16 g of the tokens 2t, 2t+1, 2t+8, 2t+9. The query heads of
// one KV head are rows of the first product and columns of the second, whose other factor is then
// just what the first one left in each lane. `lanes.cu` comes first.

constexpr int TILE = 16;             // tokens of a round, which lie in one block of the cache
constexpr int LOADS = HEAD / 64;     // 16-byte words of a key that a lane holds
constexpr int WORDS = HEAD / 16;     // of them in a key
constexpr int WIDTH = HEAD / 8;      // bytes of a value that a lane holds
constexpr int KEYS = TILE * HEAD;    // bytes
constexpr int SLOT = 2 * KEYS + 128;
constexpr int EACH = HEAD / 32;      // dimensions of the newest token that a lane has
constexpr float UP = 32768.0f;       // weights are held so much larger: float16 is narrow
static_assert(HEAD == 64 || HEAD == 128, "what a lane holds of a value is one word");
static_assert(GROUP <= 8 && KV_HEADS % 2 == 0 && PAGE % TILE == 0, "see coded.py");

// Where a word of a token's key or value lies on-chip, so that lanes which read at once find theirs
// in all banks.
__device__ __forceinline__ int key_word(int token, int word) {
  return token * WORDS + (WORDS == 8 ? word ^ (token & 1) << 2 : word);
}
__device__ __forceinline__ int value_word(int token, int word) {
  return token * WORDS + (word ^ (token & (WORDS == 8 ? 6 : 2)));
}

__device__ __forceinline__ float sum_of_warp(float x) {
#pragma unroll
  for (int s = 16; s; s >>= 1) x += __shfl_xor_sync(~0u, x, s);
  return x;
}

struct Newest {  // on-chip, of the newest token
  float scores[8], value[HEAD];
};

// One warp: a lane's numbers of a new key or value, kept as codes with a scale; returned as kept.
template <bool STATIC>
__device__ __forceinline__ void keep_newest(const u16* row, u8* codes, u16* scale_at, const u16* fixed,
                                            float (&kept)[EACH]) {
  const int lane = threadIdx.x & 31;
  float x[EACH], most = 0.0f;
#pragma unroll
  for (int i = 0; i < EACH; ++i) {
    x[i] = widen16(row[lane * EACH + i]);
    most = fmaxf(most, fabsf(x[i]));
  }
  u32 bits;
  if (STATIC) {
    bits = u32(*fixed) << 16;
  } else {
#pragma unroll
    for (int s = 16; s; s >>= 1) most = fmaxf(most, __shfl_xor_sync(~0u, most, s));
    bits = __float_as_uint(fmaxf(__fdiv_rn(most, float(LARGEST)), 1e-30f));
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u;  // bfloat16, half to even
  }
  const float scale = __uint_as_float(bits);
  if (lane == 0) *scale_at = u16(bits >> 16);
#pragma unroll
  for (int i = 0; i < EACH; i += 2) {
    const float a = fminf(fmaxf(__fdiv_rn(x[i], scale), -float(LARGEST)), float(LARGEST));
    const float b = fminf(fmaxf(__fdiv_rn(x[i + 1], scale), -float(LARGEST)), float(LARGEST));
    const u32 pair = as_codes(a, b);
    codes[lane * EACH + i] = u8(pair), codes[lane * EACH + i + 1] = u8(pair >> 8);
    u32 wide, unused;
    widen(pair, wide, unused);
    float low, high;
    part_halves(wide, low, high);
    kept[i] = low * scale, kept[i + 1] = high * scale;
  }
}

// The same of a token that another layer stored.
__device__ __forceinline__ void read_newest(const u8* codes, const u16* scale_at, float (&kept)[EACH]) {
  const int lane = threadIdx.x & 31;
  const float scale = __uint_as_float(u32(*scale_at) << 16);
#pragma unroll
  for (int i = 0; i < EACH; ++i) {
    u32 wide, unused;
    widen(codes[lane * EACH + i], wide, unused);
    float low, high;
    part_halves(wide, low, high);
    kept[i] = low * scale;
  }
}

// Block (KV head, item). An item: sequence, start, stop, piece, first piece, pieces, position, 0, as
// `inferplane_triton.attention.work` makes it; start is a multiple of 16. A block of the caches is
// [PAGE, KV_HEADS, HEAD] codes and behind them [PAGE, KV_HEADS] scales, `*_block` bytes in all.
extern "C" __global__ void __launch_bounds__(32 * WARPS, RESIDENT)
attend(const u16* q, const u16* new_k, const u16* new_v, u8* k_cache, u8* v_cache, u16* k_scales,
       u16* v_scales, const u16* k_static, const u16* v_static, u16* out, float* parts, float* stats,
       int* arrivals, const int* items, const int* tables, int scale_bits, int table_stride,
       int q_stride, int k_stride, int v_stride, int k_block, int v_block) {
  extern __shared__ uint4 pool[];  // a ring a warp; at last what each warp found
  __shared__ Newest newest;
  __shared__ float peaks[WARPS][8], totals[WARPS][8];
  __shared__ int is_last;
  await_neighbour();
  const int head = blockIdx.x, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int g = lane >> 2, t = lane & 3;
  const int* const item = items + blockIdx.y * 8;
  const int seq = item[0], start = item[1], stop = item[2], position = item[6];
  if (seq < 0) return;
  const float scale = __int_as_float(scale_bits);
  const int* const table = tables + i64(seq) * table_stride;
  const u16* const queries = q + i64(seq) * q_stride + head * GROUP * HEAD;

  u8* const ring = reinterpret_cast<u8*>(pool) + warp * DEPTH * SLOT;
  const auto fetch = [&](int round, int block) {
    const int place = start + TILE * (warp + WARPS * round);
    u8* const slot = ring + round % DEPTH * SLOT;
    const int first = place % PAGE * KV_HEADS + head;
    const u8* const keys = k_cache + i64(block) * k_block;
    const u8* const values = v_cache + i64(block) * v_block;
#pragma unroll
    for (int i = 0; i < 2 * LOADS; ++i) {  // eight neighbouring lanes ask for neighbouring words
      const int token = 32 / WORDS * i + lane / WORDS, word = lane % WORDS;
      const int at = (first + token * KV_HEADS) * HEAD + 16 * word;
      bring<16>(slot + key_word(token, word) * 16, keys + at, place + token < stop);
      bring<16>(slot + KEYS + value_word(token, word) * 16, values + at, place + token < stop);
    }
    // Two heads' scales at once, since no less can be copied so: keys' by the first 16 lanes.
    const int token = lane & 15, pair = (first + token * KV_HEADS) & ~1;
    const u16* const from = lane < 16 ? k_scales + i64(block) * (k_block / 2)
                                      : v_scales + i64(block) * (v_block / 2);
    bring<4>(slot + 2 * KEYS + lane * 4, from + pair, place + token < stop);
  };
  const int rounds = max(0, (stop - start + TILE - 1) / TILE - warp + WARPS - 1) / WARPS;
  const auto block_of = [&](int round) {
    return round < rounds ? table[(start + TILE * (warp + WARPS * round)) / PAGE] : 0;
  };
#pragma unroll
  for (int i = 0; i < DEPTH - 1; ++i) {
    if (i < rounds) fetch(i, block_of(i));
    end_group();
  }
  int next_block = block_of(DEPTH - 1);

  // Queries over their largest number, so that float16 holds any.
  u32 pairs[4 * LOADS][2];
  float strength = scale;
  {
    float x[4 * LOADS][4], most = 0.0f;
#pragma unroll
    for (int w = 0; w < 4 * LOADS; ++w)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int dim = w / 4 * 64 + 16 * t + w % 4 * 4 + i;
        x[w][i] = g < GROUP ? widen16(queries[g * HEAD + dim]) : 0.0f;
        most = fmaxf(most, fabsf(x[w][i]));
      }
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
    const float less = most > 1e-30f ? 1.0f / most : 1.0f;
    strength *= most > 1e-30f ? most : 1.0f;
#pragma unroll
    for (int w = 0; w < 4 * LOADS; ++w) {
      pairs[w][0] = pack_halves(x[w][0] * less, x[w][1] * less);
      pairs[w][1] = pack_halves(x[w][2] * less, x[w][3] * less);
    }
  }

  if (position >= 0 && warp == WARPS - 1) {  // the piece that ends with the newest token
    const i64 block = table[position / PAGE];
    const int line = position % PAGE * KV_HEADS + head;
    u8* const k_codes = k_cache + block * k_block + line * HEAD;
    u8* const v_codes = v_cache + block * v_block + line * HEAD;
    u16* const k_scale = k_scales + block * (k_block / 2) + line;
    u16* const v_scale = v_scales + block * (v_block / 2) + line;
    float key[EACH], value[EACH];
#if NEW
    keep_newest<K_STATIC>(new_k + i64(seq) * k_stride + head * HEAD, k_codes, k_scale,
                          k_static + head, key);
    keep_newest<V_STATIC>(new_v + i64(seq) * v_stride + head * HEAD, v_codes, v_scale,
                          v_static + head, value);
#else
    read_newest(k_codes, k_scale, key);
    read_newest(v_codes, v_scale, value);
#endif
#pragma unroll
    for (int i = 0; i < EACH; ++i) newest.value[lane * EACH + i] = value[i];
    for (int h = 0; h < GROUP; ++h) {
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < EACH; ++i) sum += widen16(queries[h * HEAD + lane * EACH + i]) * key[i];
      sum = sum_of_warp(sum) * scale;
      if (lane == 0) newest.scores[h] = sum;
    }
  }

  // Scores are of base 2. A value's scale is added to its score as a logarithm: what is weighed is
  // exp2(score + log2(scale)) * code, and `peak` is the largest of these exponents.
  float acc[WIDTH / 2][4] = {};  // of two dimensions, each for heads 2t and 2t+1
  float peak = -1e30f, total = 0.0f;  // total: of this lane's tokens
  for (int round = 0; round < rounds; ++round) {
    await_groups<DEPTH - 2>();
    __syncwarp();  // others' keys have come, and all have read what the next copies overwrite
    const int ahead = round + DEPTH - 1;
    if (ahead < rounds) fetch(ahead, next_block);
    end_group();
    next_block = block_of(ahead + 1);
    const u8* const slot = ring + round % DEPTH * SLOT;
    const int place = start + TILE * (warp + WARPS * round);

    const u32 two = *reinterpret_cast<const u32*>(slot + 2 * KEYS + lane * 4);
    float mine = __uint_as_float(head & 1 ? two & 0xffff0000u : two << 16);
    if (lane >= 16) mine = log_of_two(mine);
    float dots[2][4] = {};
#pragma unroll
    for (int l = 0; l < LOADS; ++l)
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const uint4 v = *reinterpret_cast<const uint4*>(slot + key_word(8 * n + g, 4 * l + t) * 16);
        const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int w = 0; w < 4; ++w) {
          u32 low, high;
          widen(words[w], low, high);
          multiply(dots[n], pairs[4 * l + w][0], 0, pairs[4 * l + w][1], 0, low, high);
        }
      }
    float score[4], exponent[4], top = peak;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int token = 2 * t + (r & 1) + 8 * (r >> 1);
      const float k_scale = __shfl_sync(~0u, mine, token);
      const float v_scale = __shfl_sync(~0u, mine, 16 + token);
      score[r] = place + token < stop ? dots[r >> 1][r & 1] * strength * k_scale : -1e38f;
      exponent[r] = place + token < stop ? score[r] + v_scale : -1e38f;
      top = fmaxf(top, exponent[r]);
    }
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
    const float shrink = power_of_two(peak - top);
    peak = top;
    if (__any_sync(~0u, shrink != 1.0f)) {
      const float even = __shfl_sync(~0u, shrink, 8 * t), odd = __shfl_sync(~0u, shrink, 8 * t + 4);
#pragma unroll
      for (int j = 0; j < WIDTH / 2; ++j)
        acc[j][0] *= even, acc[j][1] *= odd, acc[j][2] *= even, acc[j][3] *= odd;
    }
    total *= shrink;
    float weight[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      total += power_of_two(score[r] - top);
      weight[r] = UP * power_of_two(exponent[r] - top);
    }
    const u32 b0 = pack_halves(weight[0], weight[1]), b1 = pack_halves(weight[2], weight[3]);
    u32 words[4][WIDTH / 4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int token = 2 * t + (r & 1) + 8 * (r >> 1);
      const u8* const at = slot + KEYS + value_word(token, g * WIDTH / 16) * 16 + g * WIDTH % 16;
      if (WIDTH == 16) {
        const uint4 v = *reinterpret_cast<const uint4*>(at);
        words[r][0] = v.x, words[r][1] = v.y;
        words[r][WIDTH / 4 - 2] = v.z, words[r][WIDTH / 4 - 1] = v.w;
      } else {
        const uint2 v = *reinterpret_cast<const uint2*>(at);
        words[r][0] = v.x, words[r][1] = v.y;
      }
    }
#pragma unroll
    for (int w = 0; w < WIDTH / 4; ++w)
#pragma unroll
      for (int half = 0; half < 2; ++half) {  // a dimension's codes of two tokens side by side
        const u32 order = half ? 0x7362 : 0x5140;
        u32 near[2], far[2];
        widen(__byte_perm(words[0][w], words[1][w], order), near[0], near[1]);
        widen(__byte_perm(words[2][w], words[3][w], order), far[0], far[1]);
        multiply(acc[2 * w + half], near[0], near[1], far[0], far[1], b0, b1);
      }
  }

  // What the warps found, together.
  total += __shfl_xor_sync(~0u, total, 1);
  total += __shfl_xor_sync(~0u, total, 2);
  await_groups<0>();
  __syncthreads();
  float* const found = reinterpret_cast<float*>(pool);
  float* const even = found + (warp * 8 + 2 * t) * HEAD + WIDTH * g;
#pragma unroll
  for (int j = 0; j < WIDTH / 2; ++j) {
    even[2 * j] = acc[j][0], even[2 * j + 1] = acc[j][2];
    even[HEAD + 2 * j] = acc[j][1], even[HEAD + 2 * j + 1] = acc[j][3];
  }
  if (t == 0) peaks[warp][g] = peak, totals[warp][g] = total;
  __syncthreads();
  const int pieces = item[5];
  for (int e = threadIdx.x; e < GROUP * HEAD; e += 32 * WARPS) {
    const int h = e / HEAD, dim = e % HEAD;
    float top = position >= 0 ? newest.scores[h] : -1e30f;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) top = fmaxf(top, peaks[w][h]);
    float all = 0.0f, value = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
      const float part = power_of_two(peaks[w][h] - top);
      all += part * totals[w][h];
      value += part * found[(w * 8 + h) * HEAD + dim];
    }
    value *= 1.0f / UP;
    if (position >= 0) {
      const float part = power_of_two(newest.scores[h] - top);
      all += part, value += part * newest.value[dim];
    }
    if (pieces == 1) {
      out[(i64(seq) * KV_HEADS + head) * GROUP * HEAD + e] = narrow16(value / all);
    } else {
      const i64 at = (i64(item[3]) * KV_HEADS + head) * GROUP + h;
      parts[at * HEAD + dim] = value;
      if (dim == 0) stats[at * 2] = top, stats[at * 2 + 1] = all;
    }
  }
  if (pieces == 1) return;

  // Who arrives last combines the pieces.
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    int* const counter = arrivals + seq * KV_HEADS + head;
    is_last = atomicAdd(counter, 1) == pieces - 1;
    if (is_last) *counter = 0;  // ready for the next launch
  }
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  for (int e = threadIdx.x; e < GROUP * HEAD; e += 32 * WARPS) {
    const int h = e / HEAD, dim = e % HEAD;
    const i64 at = (i64(item[4]) * KV_HEADS + head) * GROUP + h;
    constexpr int STEP = KV_HEADS * GROUP;
    float top = -1e30f, all = 0.0f, value = 0.0f;
    for (int p = 0; p < pieces; ++p) top = fmaxf(top, __ldcg(stats + (at + p * STEP) * 2));
    for (int p = 0; p < pieces; ++p) {
      const i64 place = at + p * STEP;
      const float part = power_of_two(__ldcg(stats + place * 2) - top);
      all += part * __ldcg(stats + place * 2 + 1);
      value += part * __ldcg(parts + place * HEAD + dim);
    }
    out[(i64(seq) * KV_HEADS + head) * GROUP * HEAD + e] = narrow16(value / all);
  }
}
