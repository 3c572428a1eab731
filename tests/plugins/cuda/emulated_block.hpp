// One block of a kernel in CUDA C++ on a processor: its lanes are fibers, which change places where
// they wait for each other. It stands in for `lanes.cu` and for what the language itself brings.
//
// Copies to on-chip memory arrive at once (EAGER) or no sooner than they are waited for, so that a
// wait which is missing, or a copy that comes too early for others, shows.
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;
using std::max;
using std::min;

#define __device__ static
#define __forceinline__ inline
#define __global__
#define __launch_bounds__(...)
#define threadIdx (lanes[current].index)

struct Index {
  int x, y;
};
struct alignas(16) uint4 {
  u32 x, y, z, w;
};
struct alignas(8) uint2 {
  u32 x, y;
};

constexpr int THREADS = 32 * WARPS;

struct Copy {
  void* to;
  std::vector<u8> bytes;
};
struct Lane {
  ucontext_t context;
  std::vector<char> stack;
  Index index;
  bool done;
  std::vector<std::vector<Copy>> groups;  // the last one is still open
};
struct Meeting {
  int arrived = 0, rounds = 0;
  u32 given[THREADS][6];
};

static Lane lanes[THREADS];
static int current;
static Index blockIdx;
static ucontext_t outside;
static Meeting of_block, of_warp[WARPS];
static std::function<void()> body;
alignas(128) uint4 pool[16384];

static void give_way() {
  const int from = current;
  for (int i = 1; i <= THREADS; ++i) {
    const int next = (from + i) % THREADS;
    if (lanes[next].done) continue;
    if (next == from) return;
    current = next;
    swapcontext(&lanes[from].context, &lanes[next].context);
    return;
  }
}

static void meet(Meeting& here, int members) {
  const int round = here.rounds;
  if (++here.arrived == members) {
    here.arrived = 0, ++here.rounds;
    return;
  }
  while (here.rounds == round) give_way();
}

static void __syncthreads() { meet(of_block, THREADS); }
static void __syncwarp() { meet(of_warp[current / 32], 32); }

// What every lane of the warp gives; to be read before the warp meets again.
static const Meeting& exchange(u32 a, u32 b = 0, u32 c = 0, u32 d = 0, u32 e = 0, u32 f = 0) {
  Meeting& here = of_warp[current / 32];
  meet(here, 32);  // who came before has been read
  const u32 mine[6] = {a, b, c, d, e, f};
  std::copy(mine, mine + 6, here.given[current % 32]);
  meet(here, 32);
  return here;
}

template <typename T>
static u32 bits_of(T x) {
  u32 bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
template <typename T>
static T from_bits(u32 bits) {
  T x;
  std::memcpy(&x, &bits, 4);
  return x;
}
template <typename T>
static T __shfl_sync(u32, T x, int source) {
  return from_bits<T>(exchange(bits_of(x)).given[source % 32][0]);
}
template <typename T>
static T __shfl_xor_sync(u32, T x, int mask) {
  return __shfl_sync(~0u, x, (current % 32) ^ mask);
}
static bool __any_sync(u32, bool x) {
  const Meeting& here = exchange(x);
  return std::any_of(here.given, here.given + 32, [](const u32* given) { return given[0] != 0; });
}
static int atomicAdd(int* at, int x) {
  const int before = *at;
  *at += x;
  return before;
}
static void __threadfence() {}
static float __ldcg(const float* at) { return *at; }
static float __fdiv_rn(float a, float b) { return a / b; }
static float __uint_as_float(u32 bits) { return from_bits<float>(bits); }
static float __int_as_float(int bits) { return from_bits<float>(u32(bits)); }
static u32 __float_as_uint(float x) { return bits_of(x); }
static u32 __byte_perm(u32 a, u32 b, u32 order) {
  const std::uint64_t both = std::uint64_t(b) << 32 | a;
  u32 made = 0;
  for (int i = 0; i < 4; ++i) made |= u32(both >> (8 * ((order >> (4 * i)) & 7)) & 255) << (8 * i);
  return made;
}

// --- what `lanes.cu` has ---

static float of_half(u16 bits) {
  _Float16 x;
  std::memcpy(&x, &bits, 2);
  return float(x);
}
static u16 to_half(float x) {
  const _Float16 narrow = _Float16(x);
  u16 bits;
  std::memcpy(&bits, &narrow, 2);
  return bits;
}
static float widen16(u32 bits) { return HALF ? of_half(u16(bits)) : from_bits<float>(bits << 16); }
static u16 narrow16(float x) {
  if (HALF) return to_half(x);
  const u32 bits = bits_of(x);
  return u16((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
static float power_of_two(float x) { return std::exp2(x); }
static float log_of_two(float x) { return std::log2(x); }
static u32 pack_halves(float low, float high) { return to_half(low) | u32(to_half(high)) << 16; }
static void part_halves(u32 both, float& low, float& high) {
  low = of_half(u16(both)), high = of_half(u16(both >> 16));
}

static float of_e4m3(u8 code) {
  const int exponent = code >> 3 & 15, fraction = code & 7;
  const float size = exponent ? std::ldexp(8.0f + fraction, exponent - 10) : std::ldexp(float(fraction), -9);
  if ((code & 127) == 127) return NAN;
  return code & 128 ? -size : size;
}
static u8 to_e4m3(float x) {  // half to even, among all codes there are
  int best = 0;
  for (int code = 0; code < 127; ++code) {
    const float here = std::fabs(of_e4m3(u8(code)) - std::fabs(x));
    const float least = std::fabs(of_e4m3(u8(best)) - std::fabs(x));
    if (here < least || (here == least && code % 2 == 0)) best = code;
  }
  return u8(best | (std::signbit(x) ? 128 : 0));
}
static float of_code(u8 code) { return LARGEST == 127 ? float(std::int8_t(code)) : of_e4m3(code); }
static void widen(u32 codes, u32& low, u32& high) {
  low = pack_halves(of_code(u8(codes)), of_code(u8(codes >> 8)));
  high = pack_halves(of_code(u8(codes >> 16)), of_code(u8(codes >> 24)));
}
static u32 as_codes(float a, float b) {
  if (LARGEST == 127) return (u32(int(std::nearbyint(a))) & 255) | (u32(int(std::nearbyint(b))) & 255) << 8;
  return to_e4m3(a) | u32(to_e4m3(b)) << 8;
}

// PTX, mma.m16n8k16: where lane 4 g + t has its parts of a, b and c.
static void multiply(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  const Meeting& here = exchange(a0, a1, a2, a3, b0, b1);
  const int g = current % 32 / 4, t = current % 4;
  for (int place = 0; place < 4; ++place) {
    const int column = 2 * t + place % 2, lower = place / 2;
    double sum = c[place];
    for (int k = 0; k < 16; ++k) {
      const int inner = k % 8 / 2, upper = k / 8, shift = 16 * (k % 2);
      const u32 a = here.given[4 * g + inner][2 * upper + lower];
      const u32 b = here.given[4 * column + inner][4 + upper];
      sum += double(of_half(u16(a >> shift))) * of_half(u16(b >> shift));
    }
    c[place] = float(sum);
  }
}

template <int BYTES>
static void bring(void* to, const void* from, bool present) {
  std::vector<u8> bytes(BYTES, 0);
  if (present) std::memcpy(bytes.data(), from, BYTES);
  if (EAGER) std::memcpy(to, bytes.data(), BYTES);
  else lanes[current].groups.back().push_back({to, bytes});
}
static void end_group() { lanes[current].groups.emplace_back(); }
template <int LATER>
static void await_groups() {
  auto& groups = lanes[current].groups;
  while (int(groups.size()) > LATER + 1) {
    for (const Copy& one : groups.front()) std::memcpy(one.to, one.bytes.data(), one.bytes.size());
    groups.erase(groups.begin());
  }
}
static void await_neighbour() {}

// --- launching ---

static void run_lane() {
  body();
  lanes[current].done = true;
  for (int next = 0; next < THREADS; ++next)
    if (!lanes[next].done) {
      current = next;
      setcontext(&lanes[next].context);
    }
  setcontext(&outside);
}

static void run_block(int x, int y, std::function<void()> kernel) {
  blockIdx = {x, y}, body = kernel;
  std::memset(pool, 0xff, sizeof pool);  // what was not written is no number
  for (int i = 0; i < THREADS; ++i) {
    Lane& lane = lanes[i];
    lane.index = {i, 0}, lane.done = false, lane.groups.assign(1, {}), lane.stack.resize(1 << 16);
    getcontext(&lane.context);
    lane.context.uc_stack.ss_sp = lane.stack.data(), lane.context.uc_stack.ss_size = lane.stack.size();
    makecontext(&lane.context, run_lane, 0);
  }
  current = 0;
  swapcontext(&outside, &lanes[0].context);
}
