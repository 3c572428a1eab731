// Rows of x that meet one matrix. `codes.cu` comes first.
//   STACK    experts of a stack, of which each row of x has some; 0: there is one matrix
// Pairs of a row and one of its experts are sorted by expert: order[P], counts[STACK].

#if STACK
struct Rows {
  int expert, first, count;  // the first in sorted order; none where there is no such tile
};

// Tile number `tile` of 8 * NT rows, counted over all experts. All lanes of a warp ask.
__device__ __forceinline__ Rows rows_of(const int* counts, int tile) {
  constexpr int EACH = (STACK + 31) / 32, TALL = 8 * NT;
  const int lane = threadIdx.x & 31;
  int count[EACH], tiles = 0, held = 0;
#pragma unroll
  for (int i = 0; i < EACH; ++i) {
    const int expert = lane * EACH + i;
    count[i] = expert < STACK ? counts[expert] : 0;
    tiles += (count[i] + TALL - 1) / TALL, held += count[i];
  }
  int last = tiles, begin = held;
#pragma unroll
  for (int s = 1; s < 32; s *= 2) {
    const int more = __shfl_sync(~0u, last, lane - s & 31), sum = __shfl_sync(~0u, begin, lane - s & 31);
    if (lane >= s) last += more, begin += sum;
  }
  Rows mine = {0, 0, 0};  // of all lanes' experts one at most has the tile
  int ahead = tile - (last - tiles);
  begin -= held;
#pragma unroll
  for (int i = 0; i < EACH; ++i) {
    const int own = (count[i] + TALL - 1) / TALL;
    if (ahead >= 0 && ahead < own)
      mine = {lane * EACH + i, begin + ahead * TALL, min(count[i] - ahead * TALL, TALL)};
    ahead -= own, begin += count[i];
  }
  return {__reduce_add_sync(~0u, mine.expert), __reduce_add_sync(~0u, mine.first),
          __reduce_add_sync(~0u, mine.count)};
}
#endif

// What the kernel before has written may be read; the one behind may begin to read its own weights.
__device__ __forceinline__ void follow() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
