// Any machine: every value is read and quantized once, to a code of one byte. Eight codes in a 64-bit register give
// their bits q to one byte by a multiplication, whose partial products do not overlap.
#include <type_traits>

#include "walk.h"

namespace {

/// Bit q of eight bytes, byte 0 first.
inline uint64_t gather_bits(const uint8_t* codes, int q) {
  uint64_t bytes;
  memcpy(&bytes, codes, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  bytes = __builtin_bswap64(bytes);
#endif
  return ((bytes >> q & 0x0101010101010101) * 0x0102040810204080) >> 56;
}

struct Traits {
  static constexpr int TILE = 32, TILES = 1;
  static constexpr bool ANY_COUNT = true;
  static constexpr bool is_short(int64_t) { return false; }
};

template <class T, bool CODED, bool AFFINE>
struct Quantize final : Kernel<T> {
  Levels levels;
  int64_t plane_step;

  float low, high;

  explicit Quantize(const Job& job) : levels(job.levels), plane_step(job.plane_step), low(job.low), high(job.high) {}

  uint8_t code(T x, float gain, float offset) const {
    const float value = AFFINE ? clipped(widen(x) * gain + offset, low, high) : widen(x);
    if (!CODED) return (uint8_t)code_of(levels, value);
    // code_of without the call to rintf: adding 1.5 * 2^23 leaves the integer in the low bits, rounded half to even
    const float t = (value - levels.shift) * levels.inverse, above = t > 0.0f ? t : 0.0f;
    return (uint8_t)bits_of_float((above < levels.top ? above : levels.top) + 0x1.8p23f);
  }

  void store(const uint8_t codes[64], int64_t count, uint64_t* dst) const {
    for (int q = 0; q < levels.planes; ++q, dst += plane_step) {
      uint64_t plus = 0;
      for (int b = 0; b < 64; b += 8) plus |= gather_bits(codes + b, q) << b;
      *dst = ~plus & low_bits(count);
    }
  }

  void word(const T* src, const Affine& affine, int64_t count, uint64_t* dst) const override {
    uint8_t codes[64] = {};
    for (int64_t c = 0; c < count; ++c) {
      codes[c] = AFFINE ? code(src[c], affine.gain[c], affine.offset[c]) : code(src[c], 0, 0);
    }
    store(codes, count, dst);
  }

  void words(const T* src, const Affine& affine, int64_t n, int64_t pixels, int64_t step, uint64_t* dst,
             int64_t dst_step) const override {
    for (int64_t x = 0; x < pixels; ++x) {
      for (int64_t i = 0; i < n; ++i) word(src + x * step + 64 * i, affine.from(64 * i), 64, dst + x * dst_step + i);
    }
  }

  void short_words(const T*, int64_t, const Affine&, int64_t, int64_t, uint64_t*) const override {}

  void tiles(const T* src, int64_t step, const Affine& affine, int64_t count, int64_t pixels, const int64_t* at,
             uint64_t* dst) const override {
    uint8_t codes[Traits::TILE][64] = {};
    for (int64_t c = 0; c < count; ++c) {
      const float gain = AFFINE ? affine.gain[c] : 0, offset = AFFINE ? affine.offset[c] : 0;
      for (int64_t p = 0; p < pixels; ++p) codes[p][c] = code(src[c * step + p], gain, offset);
    }
    for (int64_t p = 0; p < pixels; ++p) store(codes[p], count, dst + at[p]);
  }
};

template <class T>
int pack(const Job& job) {
  const bool affine = job.args->gain != nullptr;
  if (job.levels.coded && affine) return walk<Traits, T>(job, Quantize<T, true, true>(job));
  if (job.levels.coded) return walk<Traits, T>(job, Quantize<T, true, false>(job));
  if (affine) return walk<Traits, T>(job, Quantize<T, false, true>(job));
  return walk<Traits, T>(job, Quantize<T, false, false>(job));
}

}  // namespace

extern "C" int abcfx_pack_portable(const abcfx_pack_args* args) {
  if (!valid(*args)) return ABCFX_BAD_SHAPE;
  const Job job = job_of(*args);
  return with_type(job, [&](auto type) { return pack<std::remove_cvref_t<decltype(*type)>>(job); });
}
