// Where a lane finds its own: of a panel, of x, and of the sums of x.
struct Own {
  u32 codes, x, sums;

  __device__ __forceinline__ Own(u32 held, u32 sums) : sums(sums) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
    codes = PACKED ? warp * CHUNKS * LOADS * 512 + lane * 16
                   : place_in(g, warp * (DENSE ? 8 : 4) + t);
    x = held + (STRAIGHT ? 0 : 16 * t) + (HALVED ? 64 * g : 0);
    asm volatile("" : "+r"(codes), "+r"(x));  // once, and not anew for each slot
  }
};

#if !STRAIGHT && !HALVED
// A warp's share of COUNT panels, times the row; `column` is the first of its inputs.
template <int COUNT>
__device__ __forceinline__ void add_panels(u32 panels, const Own& own, int column, int apart,
                                           const int (&half)[2], float (&acc)[COUNT][1][4]) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2;
#pragma unroll
  for (int chunk = 0; chunk < CHUNKS; ++chunk) {
    Codes codes[COUNT];
#pragma unroll
    for (int m = 0; m < COUNT; ++m)
#pragma unroll
      for (int i = 0; i < LOADS; ++i) {
        u32 from = panels + m * PANEL_BYTES + own.codes;
        if (DENSE) from = (i >> 1 ? from ^ 64 : from) + (i & 1) * 8 * LINE;
        else if (PACKED) from += (chunk * LOADS + i) * 512;
        else from += i * 8 * LINE;
        const uint4 v = shared16(from);
        codes[m].w[4 * i] = v.x, codes[m].w[4 * i + 1] = v.y;
        codes[m].w[4 * i + 2] = v.z, codes[m].w[4 * i + 3] = v.w;
      }
    const auto row = [&](int m, int unit, int) {  // x is one row: the other columns are zero
      const u32 at = own.x + (column + chunk * 64 + m * apart) * (WIDE ? 2 : 1);
      Fragments f = {};
      if (g == 0) {
        if (WIDE) {
          const uint4 v = shared16(at + unit * 64);
          f.b[0] = v.x, f.b[1] = v.y, f.b[WIDE ? 2 : 0] = v.z, f.b[WIDE ? 3 : 1] = v.w;
        } else {
          asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];"
                       : "=r"(f.b[0]), "=r"(f.b[1]) : "r"(at + unit * 8));
        }
      }
      return f;
    };
    const auto kind = [&](int m, int part) {
      const int group = GROUP ? (warp * CHUNKS + chunk) * 64 / (GROUP ? GROUP : 1) : 0;
      const int number = (group + part) * 32 + half[m] + g;
      return SharedFloats{panels + m * PANEL_BYTES + CODE_BYTES + 4 * number};
    };
#if SUMMED
    const auto sum = [&](int m, int part) {
      return SharedFloats{own.sums}[(column + chunk * 64 + m * apart) / SUMMED + part];
    };
    add_chunk<SCALE_BYTES / 4, COUNT, false>(codes, kind, row, acc, sum);
#else
    add_chunk<SCALE_BYTES / 4, COUNT, false>(codes, kind, row, acc);
#endif
  }
}
#endif

// What this warp adds of a slot to the sums of a tile; `step` counts the slots of a round. `release` is
// called once the slot has been read.
template <typename Release>
__device__ __forceinline__ void add_slot(u32 panels, const Own& own, const Plan& plan, int round, int step,
                                         const int (&half)[2], float (&acc)[2][1][4],
                                         const Release& release) {
  const int warp = threadIdx.x >> 5;
#if STRAIGHT
  const int four = warp >> 2, behind = four >> 1;  // panels, or in 16 bits stretches of one panel
  const int column = plan.column(round, DENSE ? step : behind) + (DENSE ? behind * 512 : 0);
  if (column < plan.inputs)
    add_straight(panels + four * BLOCK, own.x + column * (DENSE ? 2 : 1), acc[DENSE ? step : 0][0]);
  release();
#else
  const int column = plan.column(round, step) + warp * 64 * CHUNKS;
  const int apart = plan.column(round, 1) - plan.column(round, 0);
#if HALVED
  if (column + apart < plan.inputs)
    add_halves<2>(panels, own.codes, own.x, own.sums, column, apart, plan.inputs, half, acc, release);
  else if (column < plan.inputs)
    add_halves<1>(panels, own.codes, own.x, own.sums, column, 0, plan.inputs, half,
                  reinterpret_cast<float (&)[1][1][4]>(acc[0]), release);
  else
    release();
#else
  if (STEPS == 1 && column + apart < plan.inputs)
    add_panels<2>(panels, own, column, apart, half, acc);
  else if (column < plan.inputs)
    add_panels<1>(panels, own, column, 0, half, reinterpret_cast<float (&)[1][1][4]>(acc[step]));
  release();
#endif
#endif
}

// This warp's part of 32 outputs, for the first warp to add up.
__device__ __forceinline__ void keep_sums(float (&sums)[SUMMANDS][32], float (&acc)[2][1][4]) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
#if STRAIGHT
  if (t != (warp & 3)) return;  // it has the diagonal
  const int four = warp >> 2;
#pragma unroll
  for (int m = 0; m < (DENSE ? 2 : 1); ++m) {
    const int part = DENSE ? (four >> 1) * 4 + t : t, first = DENSE ? 16 * m + 8 * (four & 1) : 8 * four;
    sums[part][first + g] = acc[m][0][0] + acc[m][0][3];
  }
#else
  if (t) return;
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float v = acc[m][0][2 * i];
#if CODES == 8 && INPUT != 0
      v = float(__float_as_int(v));
#endif
      sums[warp][16 * m + 8 * i + g] = v;
    }
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS + BRINGERS, 1)
walk(const i64* instructions, u32* counters, u32* words, int count) {
  extern __shared__ __align__(1024) u8 pool[];  // the ring, a row of x, the instructions
  __shared__ float sums[2][SUMMANDS][32];
  __shared__ float parts[WARPS];
  __shared__ __align__(8) float of_x[HALVED   ? KEEP * 8 * THREADS / ALIKE * 2
                                     : SUMMED ? KEEP * 8 * THREADS / (SUMMED ? SUMMED : 1)
                                              : 1];
  __shared__ u64 barriers[2 * DEPTH];
  __shared__ __align__(16) float of_outputs[SCALED ? DEPTH * 32 : 1];  // scales, a slot's together
#if MEMBERS
  __shared__ __align__(16) Met met;
#endif
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  uint4* const held = reinterpret_cast<uint4*>(pool + DEPTH * SLOT_BYTES);
  i64* const list = reinterpret_cast<i64*>(held + HELD / 16);
  for (int i = threadIdx.x; i < count * WORDS_EACH; i += THREADS + BRINGERS) list[i] = instructions[i];
  if (!threadIdx.x) {
    for (int d = 0; d < DEPTH; ++d) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;"
                   :: "r"(place_of(barriers + d)), "n"(PACKED ? 1 : BRINGERS));
      asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;"
                   :: "r"(place_of(barriers + DEPTH + d)), "n"(WARPS));
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  const u32 ring = address_of(barriers), slots = address_of(pool), scales = address_of(of_outputs);
  if (STRAIGHT && slots & 1023) __trap();  // the swizzle counts from there
  if (warp >= WARPS) {  // their registers are for those who compute
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (warp == WARPS || !PACKED) bring_weights(list, count, pool, of_outputs, ring);
    return;
  }
  asm volatile("setmaxnreg.inc.sync.aligned.u32 104;");
  asm volatile("griddepcontrol.wait;" ::: "memory");  // weights depend on nobody, all else does

  const Own own(address_of(held), address_of(of_x));
  const Left left{words, (fresh4(counters) + 1) & 0xffff};
  u32 parity = 0;
  int turn = 0, slot = 0;
  for (int now = 0; now < count; ++now) {
    const i64* const s = list + now * WORDS_EACH;
    const int kind = int(s[0] & 255);
#if MEMBERS
    Tokens tokens;
    if (kind == ATTEND) {
      read_ahead(tokens, s);
      attend(s, left, met, reinterpret_cast<float*>(held), tokens);
    }
#endif
    if (kind != ATTEND) {
      const Plan plan(s);  // a norm alone has no outputs, and so no tiles
      const u16* const bias = reinterpret_cast<const u16*>(s[7]);
      float row_scale = 1.0f;
      if (plan.first < plan.tiles || (!plan.tiles && !plan.first))
        row_scale = bring_row(s, left, held, parts, of_x, !plan.first);
      for (int tile = plan.first; tile < plan.tiles; tile += gridDim.x) {
        const int o = 16 * plan.sixteen(tile, lane >> 4) + (lane & 15);  // of the first warp
        const bool stores = !warp && o < plan.outputs && (plan.mode != BEHIND || lane < 16);
        float scale_of_output = row_scale, bias_of_output = 0.0f;
        if (bias && stores) bias_of_output = wide(bias[o]);  // asked for before the products
        const int half[2] = {(plan.sixteen(tile, 0) & 1) * 16, (plan.sixteen(tile, 1) & 1) * 16};
        float acc[2][1][4] = {};
        for (int round = 0; round < plan.rounds; ++round) {
#pragma unroll
          for (int m = 0; m < STEPS; ++m) {
            const u32 panels = slots + slot * SLOT_BYTES;
            wait_for(full(ring, slot), parity);
            if (SCALED && !warp && round + 1 == plan.rounds)
              scale_of_output = row_scale * SharedFloats{scales}[slot * 32 + lane];
            add_slot(panels, own, plan, round, m, half, acc, [&] {
              __syncwarp();
              if (!lane)
                asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];"
                             :: "r"(empty(ring, slot)) : "memory");
            });
            if (++slot == DEPTH) slot = 0, parity ^= 1;
          }
        }
        keep_sums(sums[turn], acc);
        meet();
        if (!warp) {
          float sum = 0.0f;
#pragma unroll
          for (int w = 0; w < SUMMANDS; ++w) sum += sums[turn][w][lane];
          const float other = __shfl_xor_sync(~0u, sum, 16);
          if (plan.mode == BEHIND) sum += other;
          sum = sum * scale_of_output + bias_of_output;
          const float up = wide(narrow(__shfl_xor_sync(~0u, sum, 16)));
          const float gate = wide(narrow(sum));
          if (stores && (plan.mode != PAIRED || lane < 16)) {
            const u16 value = narrow(plan.mode == PAIRED ? silu(gate) * up : sum);
            left.leave(u32(s[16]), o, value);
            if (s[8]) reinterpret_cast<u16*>(s[8])[o] = value;
          }
        }
        turn ^= 1;  // with two sets one barrier a tile will do
      }
    }
  }
  if (!threadIdx.x && atomicInc(counters + 1, gridDim.x - 1) == gridDim.x - 1) atomicAdd(counters, 1u);
}
