// Instructions as functions: what is written, what is read, then the numbers that stand in the text
// of the instruction (PTX ISA 8.8, by name). Operands of matrix instructions lie as its figures show.

// --- numbers ---

static float of_half(unsigned bits) { return float(bits_as<_Float16>(std::uint16_t(bits))); }
static std::uint16_t to_half(float x) { return bits_as<std::uint16_t>(_Float16(x)); }
static float of_bfloat(unsigned bits) { return bits_as<float>(bits << 16); }
static std::uint16_t to_bfloat(float x) {
  const unsigned bits = bits_as<unsigned>(x);
  return std::uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
static float work_out_e4m3(unsigned code) {
  const int exponent = code >> 3 & 15, fraction = code & 7;
  const float size = exponent ? std::ldexp(8.0f + fraction, exponent - 10) : std::ldexp(float(fraction), -9);
  if ((code & 127) == 127) return NAN;
  return code & 128 ? -size : size;
}
static float of_e4m3(unsigned code) {
  static const std::vector<float> all = [] {
    std::vector<float> found;
    for (unsigned code = 0; code < 256; ++code) found.push_back(work_out_e4m3(code));
    return found;
  }();
  return all[code & 255];
}
static unsigned to_e4m3(float x) {  // half to even, among all codes there are
  int best = 0;
  for (int code = 0; code < 127; ++code) {
    const float here = std::fabs(of_e4m3(code) - std::fabs(x));
    const float least = std::fabs(of_e4m3(best) - std::fabs(x));
    if (here < least || (here == least && code % 2 == 0)) best = code;
  }
  return best | (std::signbit(x) ? 128 : 0);
}
static float of_s8(unsigned code) { return float(std::int8_t(code)); }
static float of_u8(unsigned code) { return float(std::uint8_t(code)); }

typedef std::uint16_t Half;
static void cvt_f32_f16(float& y, Half x) { y = of_half(x); }
static void cvt_rn_f16_f32(Half& y, float x) { y = to_half(x); }
static void cvt_rn_bf16_f32(Half& y, float x) { y = to_bfloat(x); }
static void cvt_rn_f16x2_f32(unsigned& y, float high, float low) { y = to_half(low) | unsigned(to_half(high)) << 16; }
static void cvt_rn_satfinite_e4m3x2_f32(Half& y, float high, float low) { y = Half(to_e4m3(low) | to_e4m3(high) << 8); }
static void mov_b32_cvt_f32_f16_cvt_f32_f16(float& low, float& high, unsigned both) {
  low = of_half(both), high = of_half(both >> 16);
}
static void mov_b32_cvt_rn_f16x2_e4m3x2_cvt_rn_f16x2_e4m3x2(unsigned& low, unsigned& high, unsigned codes) {
  low = to_half(of_e4m3(codes & 255)) | unsigned(to_half(of_e4m3(codes >> 8 & 255))) << 16;
  high = to_half(of_e4m3(codes >> 16 & 255)) | unsigned(to_half(of_e4m3(codes >> 24))) << 16;
}
static void sub_f16x2(unsigned& y, unsigned x) {
  y = to_half(of_half(y) - of_half(x)) | unsigned(to_half(of_half(y >> 16) - of_half(x >> 16))) << 16;
}
static void fma_rn_f16x2(unsigned& y, unsigned a, unsigned b, unsigned c) {
  const auto one = [&](int s) { return unsigned(to_half(std::fma(of_half(a >> s), of_half(b >> s), of_half(c >> s)))); };
  y = one(0) | one(16) << 16;
}
static void fma_rn_bf16x2(unsigned& y, unsigned a, unsigned b, unsigned c) {
  const auto one = [&](int s) {
    return unsigned(to_bfloat(std::fma(of_bfloat(a >> s & 65535), of_bfloat(b >> s & 65535), of_bfloat(c >> s & 65535))));
  };
  y = one(0) | one(16) << 16;
}
static void lop3_b32(unsigned& y, unsigned a, unsigned b, unsigned c, int table) {
  y = 0;
  for (int row = 0; row < 8; ++row)
    if (table >> row & 1) y |= (row & 4 ? a : ~a) & (row & 2 ? b : ~b) & (row & 1 ? c : ~c);
}
static void ex2_approx_ftz_f32(float& y, float x) { y = std::exp2(x); }
static void lg2_approx_f32(float& x) { x = std::log2(x); }

// --- memory ---

template <typename T>
static T fresh(const void* at) { return __atomic_load_n(static_cast<const T*>(at), __ATOMIC_ACQUIRE); }
static void ld_relaxed_gpu_global_v4_u32(unsigned& x, unsigned& y, unsigned& z, unsigned& w, const void* from) {
  give_way();
  const unsigned* const words = static_cast<const unsigned*>(from);
  x = fresh<unsigned>(words), y = fresh<unsigned>(words + 1), z = fresh<unsigned>(words + 2), w = fresh<unsigned>(words + 3);
}
static void ld_relaxed_gpu_global_u32(unsigned& x, const void* from) {
  give_way();
  x = fresh<unsigned>(from);
}
static void ld_relaxed_gpu_global_u16(Half& x, const void* from) { x = fresh<Half>(from); }
static void st_relaxed_gpu_global_u32(unsigned* to, unsigned x) { __atomic_store_n(to, x, __ATOMIC_RELEASE); }
static void atom_acq_rel_gpu_global_inc_u32(int& seen, int* at, int last) {
  seen = int(atomicInc(reinterpret_cast<unsigned*>(at), unsigned(last)));
}
static void ld_shared_v4_u32(unsigned& x, unsigned& y, unsigned& z, unsigned& w, unsigned from) {
  if (from % 16) __trap();
  const uint4 v = on_chip<uint4>(from);
  x = v.x, y = v.y, z = v.z, w = v.w;
}
static void ld_shared_v2_u32(unsigned& x, unsigned& y, unsigned from) {
  if (from % 8) __trap();
  const uint2 v = on_chip<uint2>(from);
  x = v.x, y = v.y;
}
static void ld_shared_v2_b32(int& x, float& y, unsigned from) {
  unsigned a, b;
  ld_shared_v2_u32(a, b, from);
  x = int(a), y = bits_as<float>(b);
}
static void ld_shared_f32(float& x, unsigned from) { x = on_chip<float>(from); }

// --- copies to on-chip memory ---

static void arrive_all(const Copies& copies) {
  for (const Copy& one : copies) std::memcpy(one.to, one.bytes.data(), one.bytes.size());
}
static void bring_later(unsigned to, const void* from, int size, int present) {
  std::vector<unsigned char> bytes(size, 0);
  if (to % size || reinterpret_cast<size_t>(from) % size) __trap();
  if (present) std::memcpy(bytes.data(), from, present);
  lanes[current].groups.back().push_back({&on_chip<char>(to), bytes});
  if (EAGER) arrive_all({lanes[current].groups.back().back()});
}
static void cp_async_cg_shared_global(unsigned to, const void* from, int present, int size) { bring_later(to, from, size, present); }
static void cp_async_cg_shared_global_L2_128B(unsigned to, const void* from, int present, int size) { bring_later(to, from, size, present); }
static void cp_async_cg_shared_global_L2_128B(unsigned to, const void* from, int size) { bring_later(to, from, size, size); }
static void cp_async_ca_shared_global(unsigned to, const void* from, int size) { bring_later(to, from, size, size); }
static void cp_async_ca_shared_global(unsigned to, const void* from, int size, int present) { bring_later(to, from, size, present); }
static void cp_async_commit_group() { lanes[current].groups.emplace_back(); }
static void cp_async_wait_group(int later) {
  auto& groups = lanes[current].groups;
  while (int(groups.size()) > later + 1) {
    if (!EAGER) arrive_all(groups.front());
    groups.erase(groups.begin());
  }
}

// --- barriers on-chip: a phase ends when all have arrived and all bytes too ---

struct Barrier {
  std::uint16_t members, missing;
  int bytes : 31;
  unsigned phase : 1;

  void settle() {
    if (!missing && !bytes) missing = members, phase ^= 1;
  }
};
static_assert(sizeof(Barrier) == 8);
static Barrier& barrier_at(unsigned at) { return on_chip<Barrier>(at); }
static void mbarrier_init_shared_cta_b64(unsigned at, int members) {
  barrier_at(at) = {std::uint16_t(members), std::uint16_t(members), 0, 0};
}
static void mbarrier_arrive_shared_cta_b64(unsigned at) {
  Barrier& here = barrier_at(at);
  if (!here.missing--) __trap();
  here.settle();
}
static void mbarrier_arrive_expect_tx_shared_cta_b64(unsigned at, int bytes) {
  barrier_at(at).bytes += bytes;
  mbarrier_arrive_shared_cta_b64(at);
}
static void cp_async_mbarrier_arrive_noinc_shared_cta_b64(unsigned at) {
  Copies copies;
  for (auto& group : lanes[current].groups) copies.insert(copies.end(), group.begin(), group.end());
  lanes[current].groups.assign(1, {});
  const auto arrival = [=] { arrive_all(copies), mbarrier_arrive_shared_cta_b64(at); };
  if (EAGER) arrival();
  else on_the_way.push_back(arrival);
}
static void cp_async_bulk_shared_cluster_global_mbarrier_complete_tx_bytes(unsigned to, const void* from,
                                                                           int bytes, unsigned at) {
  if (to % 16 || reinterpret_cast<size_t>(from) % 16 || bytes % 16) __trap();
  const auto arrival = [=] {
    std::memcpy(&on_chip<char>(to), from, bytes);
    barrier_at(at).bytes -= bytes;
    barrier_at(at).settle();
  };
  if (EAGER) arrival();
  else on_the_way.push_back(arrival);
}
static void mbarrier_try_wait_parity_shared_cta_b64_selp_u32(unsigned& done, unsigned at, unsigned parity, int, int) {
  done = barrier_at(at).phase != parity;
  if (!done) wait_in_vain();
}
static void bar_sync(int threads, int number) { meet(of_block[number], threads); }

// --- matrices ---

// c[16, 8] += a[16, K] b[K, 8] with K / 8 values in a register; lane 4 g + t.
template <int EACH, typename C, typename A, typename B>
static void multiply_matrices(C* const (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, A of_a, B of_b) {
  const Meeting& here = exchange(~0u, a[0], a[1], a[2], a[3], b0, b1);
  const int g = current % 32 / 4, t = current % 4, width = 32 / EACH;
  const unsigned mask = unsigned((1ull << width) - 1);
  for (int place = 0; place < 4; ++place) {
    const int column = 2 * t + place % 2, lower = place / 2;
    double sum = *c[place];
    for (int k = 0; k < 8 * EACH; ++k) {
      const int inner = k % (4 * EACH) / EACH, upper = k / (4 * EACH), shift = width * (k % EACH);
      sum += double(of_a(here.given[4 * g + inner][2 * upper + lower] >> shift & mask)) *
             of_b(here.given[4 * column + inner][4 + upper] >> shift & mask);
    }
    *c[place] = C(sum);
  }
}
#define MATRICES(NAME, EACH, C, A, B)                                                                       \
  static void mma_sync_aligned_##NAME(C& c0, C& c1, C& c2, C& c3, unsigned a0, unsigned a1, unsigned a2,    \
                                      unsigned a3, unsigned b0, unsigned b1) {                              \
    multiply_matrices<EACH, C>({&c0, &c1, &c2, &c3}, {a0, a1, a2, a3}, b0, b1, A, B);                       \
  }
MATRICES(m16n8k16_row_col_f32_f16_f16_f32, 2, float, of_half, of_half)
MATRICES(m16n8k16_row_col_f32_bf16_bf16_f32, 2, float, of_bfloat, of_bfloat)
MATRICES(m16n8k32_row_col_f32_e4m3_e4m3_f32, 4, float, of_e4m3, of_e4m3)
MATRICES(m16n8k32_row_col_s32_s8_s8_s32, 4, int, of_s8, of_s8)
MATRICES(m16n8k32_row_col_s32_u8_s8_s32, 4, int, of_u8, of_s8)

// A warp group's c[64, 8] = a[64, K] b[8, K] transposed, plus c where it `adds`. Both lie on-chip, 128
// bytes of a row in one run, eight rows every `apart` bytes; bits 4 to 6 of an address are swizzled
// with bits 7 to 9.
template <int EACH, typename Decode>
static void multiply_on_chip(float* const (&c)[4], std::uint64_t a, std::uint64_t b, bool adds, Decode decode) {
  if (a >> 62 != 1 || b >> 62 != 1) __trap();  // another swizzle than of 128 bytes
  const Meeting& here = exchange(~0u, unsigned(a), unsigned(a >> 32), unsigned(b), unsigned(b >> 32));
  if (std::memcmp(here.given[0], here.given[current % 32], 16)) __trap();  // a warp has one operand
  const auto value = [&](std::uint64_t described, int row, int k) {
    const unsigned apart = unsigned(described >> 32 & 0x3fff) * 16;
    unsigned at = unsigned(described & 0x3fff) * 16 + row / 8 * apart + row % 8 * 128 + k * 4 / EACH;
    at ^= (at >> 7 & 7) << 4;
    return decode(EACH == 4 ? on_chip<std::uint8_t>(at) : on_chip<std::uint16_t>(at));
  };
  const int g = current % 32 / 4, t = current % 4, first = current / 32 % 4 * 16;
  for (int place = 0; place < 4; ++place) {
    double sum = adds ? *c[place] : 0.0;
    for (int k = 0; k < 8 * EACH; ++k)
      sum += double(value(a, first + g + place / 2 * 8, k)) * value(b, 2 * t + place % 2, k);
    *c[place] = float(sum);
  }
}
#define ON_CHIP(NAME, EACH, DECODE)                                                                         \
  template <typename... Numbers>                                                                            \
  static void setp_ne_u32_wgmma_mma_async_sync_aligned_##NAME(float& c0, float& c1, float& c2, float& c3,   \
                                                              std::uint64_t a, std::uint64_t b, bool adds,  \
                                                              Numbers...) {                                 \
    multiply_on_chip<EACH>({&c0, &c1, &c2, &c3}, a, b, adds, DECODE);                                       \
  }
ON_CHIP(m64n8k16_f32_f16_f16, 2, of_half)
ON_CHIP(m64n8k16_f32_bf16_bf16, 2, of_bfloat)
ON_CHIP(m64n8k32_f32_e4m3_e4m3, 4, of_e4m3)

// --- what has nothing to do here ---

template <typename... T>
static void nothing(T&&...) {}
#define IDLE(NAME) \
  template <typename... T> \
  static void NAME(T&&...) {}
IDLE(griddepcontrol_wait)
IDLE(fence_mbarrier_init_release_cluster)
IDLE(fence_proxy_async_shared_cta)
IDLE(prefetch_global_L1)
IDLE(setmaxnreg_dec_sync_aligned_u32)
IDLE(setmaxnreg_inc_sync_aligned_u32)
IDLE(wgmma_fence_sync_aligned)
IDLE(wgmma_commit_group_sync_aligned)
IDLE(wgmma_wait_group_sync_aligned)
