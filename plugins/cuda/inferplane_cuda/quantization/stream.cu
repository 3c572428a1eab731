// The product. `codes.cu` and `rows.cu` say what is meant and come first.

static_assert(GROUP == 0 || MT == 2, "scales of 32 outputs lie together");

extern "C" __global__ void __launch_bounds__(32 * WARPS, NT == 1 ? 2 : 1)
stream(const void* x, const uint4* codes, const float* scales, const float* offsets,
       const float* x_scales, const u16* bias, u16* out, int rows, int outputs, int inputs,
       int x_stride
#if STACK
       , const int* order, const int* counts, int choices  // experts of a row of x
#endif
) {
  extern __shared__ uint4 pool[];  // chunks in flight, then HELD: x and (INPUT 1) a scale a row
  __shared__ float sums[SETS][WARPS][MT * NT * 128];
#if INPUT == 1
  __shared__ float peaks[WARPS];
#endif
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  const int chunks = inputs / 64;
#if STACK
  follow();
  const Rows own = rows_of(counts, blockIdx.x);
  const int here = own.count;
  if (!here) return;
  __shared__ int pairs[8 * NT];
  if (threadIdx.x < here) pairs[threadIdx.x] = order[own.first + threadIdx.x];
  __syncthreads();
  codes += i64(own.expert) * outputs * chunks * (CODES == 4 ? 2 : 4);
  scales += i64(own.expert) * outputs * (GROUP ? inputs / GROUP : 1);
#if OFFSET
  offsets += i64(own.expert) * outputs * (inputs / GROUP);
#endif
  const auto row_of_x = [&](int row) { return pairs[row] / choices; };
  const auto row_of_out = [&](int row) { return pairs[row]; };
#else
  const int first = blockIdx.x * 8 * NT, here = min(8 * NT, rows - first);
  const auto row_of_x = [&](int row) { return first + row; };
  const auto row_of_out = row_of_x;
#endif
  const int tiles = (outputs + 16 * MT - 1) / (16 * MT);

  uint4* const slots = pool + warp * DEPTH * SLOT;
  uint4* const held = pool + WARPS * DEPTH * SLOT;
  const int mine = warp < chunks ? (chunks - warp + WARPS - 1) / WARPS : 1;  // rounds of this warp

  // What comes next: round `coming` of the tiles `ahead`, the codes `code`, their scales at `at`.
  const i64 tall = i64(chunks) * (WIDE ? LOADS * 32 : 32);  // to the next tile, or 8 outputs on
  int ahead = blockIdx.y, coming = 0;
  const uint4* code;
  i64 at;
  const auto begin_tile = [&]() {
    if (WIDE) {
      code = codes + i64(ahead) * MT * tall + i64(warp) * (LOADS * 32) + lane;
    } else {
      code = codes + i64(ahead) * MT * 2 * tall + i64(g) * chunks * 4 + warp * 4 + t;
    }
#if GROUP
    at = (i64(ahead) * (inputs / GROUP) + warp * 64 / GROUP) * 32 + lane;
#endif
  };
  const auto fetch = [&](uint4* slot) {
    if (ahead < tiles && warp < chunks) {
#pragma unroll
      for (int m = 0; m < MT; ++m)
#pragma unroll
        for (int i = 0; i < LOADS; ++i) {
          uint4* to = slot + (m * LOADS + i) * 32 + lane;
          if (WIDE) {
            fetch16(to, code + m * tall + i * 32);
          } else if ((ahead * MT + m) * 16 + 8 * i + g < outputs) {
            fetch16(to, code + (2 * m + i) * tall);
          }
        }
#if GROUP
      float* to = reinterpret_cast<float*>(slot + MT * LOADS * 32) + lane;
#pragma unroll
      for (int part = 0; part < PARTS; ++part) {
        fetch4(to + part * KINDS * 32, scales + at + part * 32);
#if OFFSET
        fetch4(to + part * KINDS * 32 + 32, offsets + at + part * 32);
#endif
      }
#endif
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
    code += WARPS * (WIDE ? LOADS * 32 : 4);
#if GROUP
    at += STRIDE / GROUP * 32;
#endif
    if (++coming == mine) {
      coming = 0, ahead += gridDim.y;
      begin_tile();
    }
  };

  begin_tile();
#pragma unroll
  for (int d = 0; d < DEPTH; ++d) fetch(slots + d * SLOT);
#if !STACK
  follow();  // weights depend on nobody, but from here on x is needed
#endif

  const void* from;
  int stride = x_stride;
#if HELD
  u8* const coded = reinterpret_cast<u8*>(held);
  float* const row_scales = reinterpret_cast<float*>(coded + i64(here) * inputs);
  for (int r = 0; r < here; ++r) {
    const u16* row = static_cast<const u16*>(x) + i64(row_of_x(r)) * x_stride;
    uint4 kept[KEPT];  // each thread's share of the row
#pragma unroll
    for (int j = 0; j < KEPT; ++j) {
      const int at = 8 * (threadIdx.x + j * 32 * WARPS);
      kept[j] = make_uint4(0, 0, 0, 0);
      if (at >= inputs) continue;
      kept[j] = *reinterpret_cast<const uint4*>(row + at);
    }
#if INPUT == 1
#if GIVEN
    const float scale = x_scales[0];
#else
    float peak = 0.0f;
#pragma unroll
    for (int j = 0; j < KEPT; ++j) {
      const u32 p[4] = {kept[j].x, kept[j].y, kept[j].z, kept[j].w};
#pragma unroll
      for (int k = 0; k < 4; ++k)
        peak = fmaxf(peak, fmaxf(fabsf(wide(p[k])), fabsf(wide(p[k] >> 16))));
    }
    const float scale =
        fmaxf(__fdiv_rn(largest_of_block(peak, peaks), CODES == 8 ? 127.0f : 448.0f), 1e-12f);
#endif
    if (!threadIdx.x) row_scales[r] = scale;
#pragma unroll
    for (int j = 0; j < KEPT; ++j) {
      const int i = threadIdx.x + j * 32 * WARPS;
      if (i < inputs / 8)
        reinterpret_cast<uint2*>(coded + i64(r) * inputs)[i] = round8(kept[j], scale);
    }
#else
#pragma unroll
    for (int j = 0; j < KEPT; ++j) {
      const int i = threadIdx.x + j * 32 * WARPS;
      if (i < inputs / 8) held[r * (inputs / 8) + i] = kept[j];
    }
#endif
  }
  __syncthreads();
  from = held;
  stride = inputs;
#else
#if STACK
  from = x;
#else
  from = static_cast<const u8*>(x) + i64(first) * x_stride * (WIDE ? 2 : 1);
#endif
#endif
#if STACK && !HELD
  i64 starts[NT];  // of this lane's rows
#pragma unroll
  for (int n = 0; n < NT; ++n) starts[n] = 8 * n + g < here ? i64(row_of_x(8 * n + g)) * stride : 0;
#endif
  // Where this lane reads x: input 0 of its first chunk, in its first row.
  const int lane_start = warp * 64 + (WIDE ? 8 * t : 16 * t);
  const auto x_at = [&](int column, int n) {
#if STACK && !HELD
    const i64 start = starts[n];
#else
    const i64 start = i64(8 * n + g) * stride;
#endif
    return load_x(from, start + column, 8 * n + g < here);
  };

  float acc[MT][NT][4] = {};
  int round = 0, current = blockIdx.y, turn = 0, column = lane_start;

#if !GROUP
  // Of the output that this thread will store: asked for a tile ahead, the answer takes long.
  float scale_of_tile = 0.0f;
  const auto ask_scale = [&]() {
    const int o = current * (16 * MT) + threadIdx.x % (16 * MT);
    if (o < outputs) scale_of_tile = scales[o];
  };
  ask_scale();
#endif

  // All warps' parts of the tile, added up.
  const auto finish = [&]() {
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
      for (int n = 0; n < NT; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float v = acc[m][n][i];
#if CODES == 8 && INPUT != 0
          v = float(__float_as_int(v));
#endif
          sums[turn][warp][(8 * n + 2 * t + (i & 1)) * (16 * MT) + 16 * m + g + (i & 2) * 4] = v;
          acc[m][n][i] = 0.0f;
        }
    __syncthreads();
    for (int i = threadIdx.x; i < here * 16 * MT; i += 32 * WARPS) {
      const int row = i / (16 * MT), o = current * (16 * MT) + i % (16 * MT);
      if (o >= outputs) continue;
      float sum = 0.0f;
#pragma unroll
      for (int w = 0; w < WARPS; ++w) sum += sums[turn][w][i];
#if !GROUP
      sum *= scale_of_tile;
#endif
#if INPUT == 1
      sum *= row_scales[row];
#elif INPUT == 2
      sum *= x_scales[row_of_x(row)];
#endif
      if (bias) sum += wide(bias[o]);
      out[i64(row_of_out(row)) * outputs + o] = narrow(sum);
    }
    if (SETS == 1) __syncthreads();
    turn ^= SETS - 1;
  };

  const uint4* slot = slots;
  while (current < tiles) {
    asm volatile("cp.async.wait_group %0;" :: "n"(DEPTH - 1) : "memory");
    __syncwarp();  // scales were fetched by other lanes
    if (warp < chunks) {
      Codes codes[MT];
#pragma unroll
      for (int m = 0; m < MT; ++m) codes[m] = codes_of(slot, m);
      const auto row = [&](int, int unit, int n) { return x_at(column + unit * (WIDE ? 32 : 8), n); };
      const float* kinds = reinterpret_cast<const float*>(slot + MT * LOADS * 32) + g;
      const auto kind = [&](int m, int part) { return kinds + part * KINDS * 32 + 16 * m; };
      add_chunk<32, MT, true>(codes, kind, row, acc);
    }
    __syncwarp();  // all have read the scales that others bring anew
    fetch(const_cast<uint4*>(slot));
    slot = slot == slots + (DEPTH - 1) * SLOT ? slots : slot + SLOT;
    column += STRIDE;
    if (++round == mine) {
      finish();
      round = 0;
      column = lane_start;
      current += gridDim.y;
#if !GROUP
      ask_scale();
#endif
    }
  }
}
