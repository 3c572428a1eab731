// A matrix as this block sees it: which tiles, and of a tile and round which panels.
struct Plan {
  int outputs, inputs, mode, first, tiles, rounds;

  __device__ __forceinline__ Plan(const i64* s) {
    outputs = int(s[11]), inputs = int(s[11] >> 32), mode = int(s[0] >> 16) & 255;
    first = int(blockIdx.x) - int(s[0] >> 32);  // each begins where the one before has ended
    if (first < 0) first += int(gridDim.x);
    tiles = mode == BEHIND ? (outputs + 15) / 16 : (outputs + 31) / 32;
    const int wide = mode == BEHIND ? 2 * ACROSS : ACROSS;
    rounds = (inputs + wide - 1) / wide;
  }
  // 16 outputs, counted in sixteens.
  __device__ __forceinline__ int sixteen(int tile, int m) const {
    return mode == BESIDE ? 2 * tile + m : mode == PAIRED ? tile + m * (outputs / 32) : tile;
  }
  __device__ __forceinline__ int column(int round, int m) const {
    return (mode == BEHIND ? 2 * round + m : round) * ACROSS;
  }
};

// Two barriers for each slot of the ring: it is full, and it is empty again.
__device__ __forceinline__ u32 full(u32 ring, int slot) { return ring + 8 * slot; }
__device__ __forceinline__ u32 empty(u32 ring, int slot) { return ring + 8 * (DEPTH + slot); }

// One run of bytes, a multiple of 16, which the device brings by itself.
__device__ __forceinline__ void bring_run(u8* to, const u8* from, int bytes, u32 barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
               "[%3];" :: "r"(place_of(to)), "l"(from), "r"(bytes), "r"(barrier)
               : "memory");
}

// Panels whose codes lie in one run: a lane for each run of a slot, and one to say how much comes.
__device__ __forceinline__ void bring_packed(const i64* s, const Plan& plan, int tile, int round,
                                             u8* slot, float* scales, u32 barrier) {
  const int lane = threadIdx.x & 31, m = lane & 1;
  const int sixteen = plan.sixteen(tile, m), column = plan.column(round, m);
  const int width = sixteen * 16 < (plan.outputs + 31) / 32 * 32 ? plan.inputs - column : 0;
  u8* to = slot + m * PANEL_BYTES;
  constexpr int EACH_INPUT = CODE_BYTES / ACROSS;
  int bytes = 0;
  const u8* from = nullptr;
  if (lane < 2) {
    bytes = max(0, min(ACROSS, width)) * EACH_INPUT;
    from = reinterpret_cast<const u8*>(s[4]) + (i64(sixteen) * plan.inputs + column) * EACH_INPUT;
#if GROUP
  } else if (lane < 2 + 2 * KINDS) {
    bytes = max(0, min(ACROSS, width)) / GROUP * 128;
    from = reinterpret_cast<const u8*>(lane < 4 ? s[5] : s[6]) +
           (i64(sixteen / 2) * (plan.inputs / GROUP) + column / GROUP) * 128;
    to += CODE_BYTES + (lane < 4 ? 0 : SCALE_BYTES);
#else
  } else if (lane < 4) {
    bytes = width > 0 ? 64 : 0;
    from = reinterpret_cast<const u8*>(s[5]) + sixteen * 64;
    to = reinterpret_cast<u8*>(scales) + m * 64;
#endif
  }
  const int all = __reduce_add_sync(~0u, bytes);
  if (!lane)
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 :: "r"(barrier), "r"(all) : "memory");
  __syncwarp();
  if (bytes) bring_run(to, from, bytes, barrier);
}

// Where 16 bytes of a line lie on-chip. STRAIGHT: as straight.cu says, blocks of lines 0 to 7 first.
// Else odd lines otherwise, so that neighbours fall on other banks.
__device__ __forceinline__ int place_in(int row, int piece) {
#if STRAIGHT
  const int block = (piece >> 6) * 2 + (row >> 3);
  return block * BLOCK + (piece >> 3 & 7) * 1024 + (row & 7) * 128 + ((piece ^ row) & 7) * 16;
#else
  return row * LINE + (piece ^ (row & 1) << 2) * 16;
#endif
}

// 16 bytes, or zeros where nothing is.
__device__ __forceinline__ void fetch16_or_zeros(void* to, const void* from, bool is_there) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
               :: "r"(place_of(to)), "l"(from), "r"(is_there ? 16 : 0) : "memory");
}

// A thread's piece of every LINES-th of 16 lines, as far as there are any.
template <int LINES>
__device__ __forceinline__ void bring_lines(u8* panel, const u8* from, i64 apart, int row, int piece,
                                            int left, bool is_there) {
#pragma unroll 4
  for (int j = 0; j < 16; j += LINES, from += apart) {
    if (j >= left) continue;
    if (STRAIGHT) fetch16_or_zeros(panel + place_in(row + j, piece), from, is_there);
    else if (is_there) fetch16(panel + place_in(row + j, piece), from);
  }
}

// The part of the block that brings weights: those of the whole list, in the order in which the
// block takes them.
__device__ __forceinline__ void bring_weights(const i64* list, int count, u8* slots, float* scales,
                                              u32 ring) {
  constexpr int PIECES = LINE / 16;                             // of a line
  constexpr int LINES = PIECES > BRINGERS ? 1 : BRINGERS / PIECES;  // at once
  const int thread = threadIdx.x - THREADS;
  int slot = 0;
  u32 parity = 1;
  for (int at = 0; at < count; ++at) {
    const i64* s = list + at * WORDS_EACH;
    if (int(s[0] & 255) != STREAM) continue;
    const Plan plan(s);
    const u8* const codes = reinterpret_cast<const u8*>(s[4]);
    for (int tile = plan.first; tile < plan.tiles; tile += gridDim.x) {
      for (int step = 0; step < STEPS * plan.rounds; ++step) {
        wait_for(empty(ring, slot), parity);
        if constexpr (PACKED) {
          bring_packed(s, plan, tile, step, slots + slot * SLOT_BYTES, scales + slot * 32,
                       full(ring, slot));
        } else {
#pragma unroll
          for (int place = 0; place < PANELS; ++place) {
            const int round = step / STEPS, m = STEPS == 1 ? place : step % STEPS;
            const int sixteen = plan.sixteen(tile, m), column = plan.column(round, m);
            const int width = plan.inputs - column;  // below zero: nothing is left
            u8* const to = slots + slot * SLOT_BYTES + place * PANEL_BYTES;
            const int row = thread / PIECES, piece = thread % PIECES;
            const i64 line = i64(plan.inputs) * LINE / ACROSS;
            const u8* from = codes + i64(sixteen * 16 + row) * line + i64(column) * LINE / ACROSS;
            const int left = width > 0 ? plan.outputs - sixteen * 16 - row : 0;
            const bool is_there = piece * 16 < width * LINE / ACROSS;
            bring_lines<LINES>(to, from + piece * 16, LINES * line, row, piece, left, is_there);
          }
          if (SCALED && thread < 32) {
            const int o = 16 * plan.sixteen(tile, thread >> 4) + (thread & 15);
            if (o < plan.outputs)
              fetch4(scales + slot * 32 + thread, reinterpret_cast<const float*>(s[5]) + o);
          }
          asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];"
                       :: "r"(full(ring, slot)) : "memory");
        }
        if (++slot == DEPTH) slot = 0, parity ^= 1;
      }
    }
  }
}
