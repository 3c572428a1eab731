// CUDA C++ on a processor: what the language brings. Lanes are fibers that change places where they
// wait for each other, blocks are threads that all live at once. `emulated_ptx.hpp` has the
// instructions, which `conftest.py` makes calls of.
//
// Copies to on-chip memory arrive at once (EAGER), or no sooner than somebody waits and then in any
// order, so that a wait which is missing, or a copy that comes too early for others, shows.
#include <ucontext.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <thread>
#include <utility>
#include <vector>

using std::max;
using std::min;

#define __device__
#define __forceinline__ inline
#define __global__
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

struct Index {
  int x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
static uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }

struct Copy {
  void* to;
  std::vector<unsigned char> bytes;
};
typedef std::vector<Copy> Copies;
struct Lane {
  ucontext_t context;
  std::vector<char> stack;
  Index index;
  bool done;
  std::vector<Copies> groups;  // the last one is still open
};
struct Meeting {
  int arrived = 0, rounds = 0;
  unsigned given[32][6];
};

thread_local std::vector<Lane> lanes;
thread_local int current;
thread_local Index blockIdx;
static Index gridDim;
thread_local ucontext_t outside;
thread_local std::map<unsigned, Meeting> of_block;                      // by barrier
thread_local std::map<std::pair<int, unsigned>, Meeting> of_warp;       // by warp and members
thread_local std::vector<std::function<void()>> on_the_way;             // copies nobody waited for
thread_local std::minstd_rand draw;
static std::function<void()> body;  // a lane's
static const Index& index_of_lane() { return lanes[current].index; }
#define threadIdx (index_of_lane())
thread_local __align__(1024) char on_chip_memory[227 << 10];

static std::atomic<bool> is_trapped;
static char complaint[80];

// The launch ends: every lane is left where it is.
static void __trap() {
  if (!is_trapped.exchange(true))
    std::snprintf(complaint, sizeof complaint, "lane %d of block (%d, %d) traps", current, blockIdx.x, blockIdx.y);
  setcontext(&outside);
}

// Another lane goes on: mostly the next one, now and then any, so that none can count on an order.
static void give_way() {
  if (is_trapped) setcontext(&outside);
  const int from = current, count = int(lanes.size());
  const int skipped = draw() % 16 ? 1 : int(draw() % count);
  for (int i = skipped; i <= skipped + count; ++i) {
    const int next = (from + i) % count;
    if (lanes[next].done) continue;
    if (next == from) return std::this_thread::yield();
    current = next;
    swapcontext(&lanes[from].context, &lanes[next].context);
    return;
  }
}

// A wait in vain: one of the copies on the way arrives, whichever, and others go on.
static void wait_in_vain() {
  if (!on_the_way.empty()) {
    std::swap(on_the_way[draw() % on_the_way.size()], on_the_way.back());
    const auto arrival = on_the_way.back();
    on_the_way.pop_back();
    arrival();
  }
  give_way();
}

static void meet(Meeting& here, int members) {
  const int round = here.rounds;
  if (++here.arrived == members) {
    here.arrived = 0, ++here.rounds;
    return;
  }
  while (here.rounds == round) give_way();
}
static Meeting& with(unsigned members) { return of_warp[{current / 32, members}]; }
static int count_of(unsigned members) { return __builtin_popcount(members); }

static void __syncthreads() { meet(of_block[0], int(lanes.size())); }
static void __syncwarp(unsigned members = ~0u) { meet(with(members), count_of(members)); }

// What every one of the members gives; to be read before they meet again.
static const Meeting& exchange(unsigned members, unsigned a, unsigned b = 0, unsigned c = 0,
                               unsigned d = 0, unsigned e = 0, unsigned f = 0) {
  if (!(members >> current % 32 & 1)) __trap();
  Meeting& here = with(members);
  meet(here, count_of(members));  // who came before has been read
  const unsigned mine[6] = {a, b, c, d, e, f};
  std::copy(mine, mine + 6, here.given[current % 32]);
  meet(here, count_of(members));
  return here;
}

template <typename To, typename From>
static To bits_as(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}
template <typename T>
static T __shfl_sync(unsigned members, T x, int source) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  unsigned words[2] = {};
  std::memcpy(words, &x, sizeof x);
  const Meeting& here = exchange(members, words[0], words[1]);
  if (!(members >> source % 32 & 1)) __trap();
  std::memcpy(&x, here.given[source % 32], sizeof x);
  return x;
}
template <typename T>
static T __shfl_xor_sync(unsigned members, T x, int mask) {
  return __shfl_sync(members, x, (current % 32) ^ mask);
}
static bool __any_sync(unsigned members, bool x) {
  const Meeting& here = exchange(members, x);
  for (int lane = 0; lane < 32; ++lane)
    if ((members >> lane & 1) && here.given[lane][0]) return true;
  return false;
}
static int __reduce_add_sync(unsigned members, int x) {
  const Meeting& here = exchange(members, unsigned(x));
  int sum = 0;
  for (int lane = 0; lane < 32; ++lane)
    if (members >> lane & 1) sum += int(here.given[lane][0]);
  return sum;
}
static int atomicAdd(int* at, int x) { return __atomic_fetch_add(at, x, __ATOMIC_SEQ_CST); }
static unsigned atomicInc(unsigned* at, unsigned last) {
  unsigned seen = __atomic_load_n(at, __ATOMIC_SEQ_CST);
  while (!__atomic_compare_exchange_n(at, &seen, seen >= last ? 0 : seen + 1, false,
                                      __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
  }
  return seen;
}
static void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
template <typename T>
static T __ldcg(const T* at) { return *at; }
template <typename T>
static T __ldg(const T* at) { return *at; }
static float __fdiv_rn(float a, float b) { return a / b; }
static float __fdividef(float a, float b) { return a / b; }
static float __expf(float x) { return std::exp(x); }
static float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
static int __float2int_rn(float x) { return int(std::nearbyint(x)); }
static float __uint_as_float(unsigned bits) { return bits_as<float>(bits); }
static float __int_as_float(int bits) { return bits_as<float>(bits); }
static unsigned __float_as_uint(float x) { return bits_as<unsigned>(x); }
static int __float_as_int(float x) { return bits_as<int>(x); }
static unsigned __byte_perm(unsigned a, unsigned b, unsigned order) {
  const std::uint64_t both = std::uint64_t(b) << 32 | a;
  unsigned made = 0;
  for (int i = 0; i < 4; ++i) made |= unsigned(both >> (8 * ((order >> (4 * i)) & 7)) & 255) << (8 * i);
  return made;
}

// On-chip addresses are counted from what a launch asks for; what a kernel declares lies near it.
static size_t __cvta_generic_to_shared(const void* at) {
  return std::uint32_t(static_cast<const char*>(at) - on_chip_memory);
}
template <typename T>
static T& on_chip(unsigned at) {
  return *reinterpret_cast<T*>(on_chip_memory + int(at));
}

static void run_lane() {
  body();
  lanes[current].done = true;
  for (int i = 0; i < int(lanes.size()); ++i) {
    current = (current + 1) % int(lanes.size());
    if (!lanes[current].done) setcontext(&lanes[current].context);
  }
  setcontext(&outside);
}

static void run_block(int threads, Index place) {
  blockIdx = place, lanes = std::vector<Lane>(threads), of_block.clear(), of_warp.clear();
  on_the_way.clear(), draw.seed(unsigned(place.x * 64 + place.y + 1));
  std::memset(on_chip_memory, 0xff, sizeof on_chip_memory);  // what was not written is no number
  for (int i = 0; i < threads; ++i) {
    Lane& lane = lanes[i];
    lane.index = {i, 0}, lane.done = false, lane.groups.assign(1, {}), lane.stack.resize(1 << 16);
    getcontext(&lane.context);
    lane.context.uc_stack.ss_sp = lane.stack.data(), lane.context.uc_stack.ss_size = lane.stack.size();
    makecontext(&lane.context, run_lane, 0);
  }
  current = int(draw() % threads);
  swapcontext(&outside, &lanes[current].context);
}

// All blocks of the grid, AT_ONCE of them at a time, as a device that holds no more would.
constexpr int AT_ONCE = 8;

static void run_grid(Index grid, int threads, std::function<void()> kernel) {
  gridDim = grid, body = kernel;
  const int count = grid.x * grid.y;
  std::atomic<int> next{0};
  std::vector<std::thread> units;
  for (int unit = 0; unit < min(AT_ONCE, count); ++unit)
    units.emplace_back([&] {
      for (int block; (block = next++) < count && !is_trapped;) run_block(threads, {block % grid.x, block / grid.x});
    });
  for (auto& unit : units) unit.join();
}

// A kernel with arguments as a launch gives them: where each one is.
template <typename... Types, size_t... I>
static void call(void (*kernel)(Types...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<Types*>(arguments[I])...);
}
template <typename... Types>
static const char* launch_kernel(void (*kernel)(Types...), const int* sizes, void** arguments) {
  is_trapped = false;
  run_grid({sizes[0], sizes[1]}, sizes[2],
           [=] { call(kernel, arguments, std::index_sequence_for<Types...>()); });
  return is_trapped ? complaint : nullptr;
}
