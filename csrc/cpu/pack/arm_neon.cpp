// NEON. Sixteen values become sixteen codes of one byte. Contiguous channels: NEON has no movemask, so the 64 tested
// bytes of a word are given the weights of their bits and added pairwise, three times, into eight bytes. Contiguous
// pixels: eight channels of 16 pixels give bytes of eight bits, eight of which are a word.
#include <arm_neon.h>

#include <type_traits>

#include "thresholds.h"
#include "walk.h"

#if !defined(__aarch64__)
#error "this file is for aarch64"
#endif

namespace {

inline float32x4_t load(const F32* src) { return vld1q_f32(&src->value); }
inline float32x4_t load(const Bf16* src) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(&src->bits), 16)); }
inline float32x4_t load(const F16* src) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&src->bits))); }

/// The clip after an affine: fmax and fmin return NaN if an operand is one, so that a NaN stays.
inline float32x4_t clipped(float32x4_t x, const Affine& affine) {
  return vminq_f32(vmaxq_f32(x, vdupq_n_f32(affine.low)), vdupq_n_f32(affine.high));
}

/// How an affine meets four values: not at all, channel by channel, or (tiles) one channel for all.
enum class Meets { NEVER, EACH, ALL };

/// Multiplied and added apart: the build forbids the compiler to fuse them.
template <Meets MEETS, class T>
inline float32x4_t value(const T* src, const Affine& affine) {
  const float32x4_t x = load(src);
  if constexpr (MEETS == Meets::NEVER) return x;
  if constexpr (MEETS == Meets::EACH) {
    return clipped(vaddq_f32(vmulq_f32(x, vld1q_f32(affine.gain)), vld1q_f32(affine.offset)), affine);
  }
  return clipped(vaddq_f32(vmulq_f32(x, vdupq_n_f32(*affine.gain)), vdupq_n_f32(*affine.offset)), affine);
}

/// Coded levels, computed.
struct Steps {
  float32x4_t shift, inverse;
  uint8x16_t top;
  int planes;

  explicit Steps(const Levels& levels)
      : shift(vdupq_n_f32(levels.shift)),
        inverse(vdupq_n_f32(levels.inverse)),
        top(vdupq_n_u8((uint8_t)levels.top)),
        planes(levels.planes) {}

  /// fcvtnu rounds half to even and gives 0 for a NaN and for what is below zero; the narrowing saturates above.
  uint8x16_t codes(const float32x4_t x[4]) const {
    uint16x4_t code[4];
    for (int i = 0; i < 4; ++i) code[i] = vqmovn_u32(vcvtnq_u32_f32(vmulq_f32(vsubq_f32(x[i], shift), inverse)));
    const uint8x8_t low = vqmovn_u16(vcombine_u16(code[0], code[1]));
    return vminq_u8(vcombine_u8(low, vqmovn_u16(vcombine_u16(code[2], code[3]))), top);
  }
};

/// Thermometer levels, and coded ones of one plane: compared with f32 thresholds.
struct Compared {
  float32x4_t threshold[ABCFX_MAX_BASES];
  int planes;

  explicit Compared(const Levels& levels) : planes(levels.planes) {
    for (int q = 0; q < planes; ++q) threshold[q] = vdupq_n_f32(threshold_of(levels, q));
  }

  uint8x16_t codes(const float32x4_t x[4]) const {
    uint8x16_t all = vdupq_n_u8(0);
    for (int q = 0; q < planes; ++q) {
      uint16x8_t plus[4];
      for (int i = 0; i < 4; ++i) plus[i] = vreinterpretq_u16_u32(vcgeq_f32(x[i], threshold[q]));
      const uint8x16_t low = vreinterpretq_u8_u16(vuzp1q_u16(plus[0], plus[1]));
      const uint8x16_t bytes = vuzp1q_u8(low, vreinterpretq_u8_u16(vuzp1q_u16(plus[2], plus[3])));
      all = vorrq_u8(all, vandq_u8(bytes, vdupq_n_u8((uint8_t)(1 << q))));
    }
    return all;
  }
};

/// The codes of 16 contiguous values, or of the first 8 (and zeros).
template <Meets MEETS, int OCTETS, class T, class Method>
inline uint8x16_t codes_of(const Method& method, const T* src, const Affine& affine) {
  float32x4_t x[4];
  for (int i = 0; i < 4; ++i) {
    const Affine own = MEETS == Meets::EACH ? affine.from(4 * i) : affine;
    x[i] = i < 2 * OCTETS ? value<MEETS>(src + 4 * i, own) : vdupq_n_f32(0.0f);
  }
  return method.codes(x);
}

/// Bit q of 64 codes, inverted.
inline uint64_t minus_of(const uint8x16_t codes[4], int q) {
  const uint8x16_t weight = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
  const uint8x16_t bit = vdupq_n_u8((uint8_t)(1 << q));
  uint8x16_t minus[4];
  for (int i = 0; i < 4; ++i) minus[i] = vbicq_u8(weight, vtstq_u8(codes[i], bit));
  const uint8x16_t sum = vpaddq_u8(vpaddq_u8(minus[0], minus[1]), vpaddq_u8(minus[2], minus[3]));
  return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(sum, sum)), 0);
}

/// Byte p of eight registers, side by side: out[i] holds pixels 2 i and 2 i + 1.
inline void interleave(const uint8x16_t rows[8], uint64x2_t out[8]) {
  uint16x8_t pairs[8];
  for (int i = 0; i < 4; ++i) {  // pixels 0 to 7, then 8 to 15
    pairs[i] = vreinterpretq_u16_u8(vzip1q_u8(rows[2 * i], rows[2 * i + 1]));
    pairs[4 + i] = vreinterpretq_u16_u8(vzip2q_u8(rows[2 * i], rows[2 * i + 1]));
  }
  for (int i = 0; i < 8; i += 4) {
    const uint16x8_t *low = pairs + i, *high = pairs + i + 2;
    const uint32x4_t fours[2][2] = {
        {vreinterpretq_u32_u16(vzip1q_u16(low[0], low[1])), vreinterpretq_u32_u16(vzip1q_u16(high[0], high[1]))},
        {vreinterpretq_u32_u16(vzip2q_u16(low[0], low[1])), vreinterpretq_u32_u16(vzip2q_u16(high[0], high[1]))}};
    for (int j = 0; j < 2; ++j) {
      out[i + 2 * j] = vreinterpretq_u64_u32(vzip1q_u32(fours[j][0], fours[j][1]));
      out[i + 2 * j + 1] = vreinterpretq_u64_u32(vzip2q_u32(fours[j][0], fours[j][1]));
    }
  }
}

struct Traits {
  static constexpr int TILE = 16, TILES = 8;
  static constexpr bool ANY_COUNT = false;
  static constexpr bool is_short(int64_t channels) { return channels == 8 || channels == 16; }
};

template <class T, class Method, bool AFFINE>
struct Quantize final : Kernel<T> {
  static constexpr int TILE = Traits::TILE;
  static constexpr Meets EACH = AFFINE ? Meets::EACH : Meets::NEVER, ALL = AFFINE ? Meets::ALL : Meets::NEVER;

  Method method;
  int64_t plane_step;

  explicit Quantize(const Job& job) : method(job.levels), plane_step(job.plane_step) {}

  void words(const T* src, const Affine& affine, int64_t n, int64_t pixels, int64_t step, uint64_t* dst,
             int64_t dst_step) const override {
    const Method local = method;  // nothing written through dst can change it: it stays in registers
    const int64_t plane = plane_step;
    for (int64_t x = 0; x < pixels; ++x, src += step, dst += dst_step) {
      for (int64_t i = 0; i < n; ++i) {
        uint8x16_t codes[4];
        for (int j = 0; j < 4; ++j) {
          const int64_t channel = 64 * i + 16 * j;
          codes[j] = codes_of<EACH, 2>(local, src + channel, affine.from(channel));
        }
        for (int q = 0; q < local.planes; ++q) dst[q * plane + i] = minus_of(codes, q);
      }
    }
  }

  void word(const T* src, const Affine& affine, int64_t count, uint64_t* dst) const override {
    uint8x16_t codes[4];
    for (int j = 0; j < 4; ++j) {  // whole octets are read
      const int64_t left = count - 16 * j;
      codes[j] = vdupq_n_u8(0);
      if (left > 8) codes[j] = codes_of<EACH, 2>(method, src + 16 * j, affine.from(16 * j));
      if (left > 0 && left <= 8) codes[j] = codes_of<EACH, 1>(method, src + 16 * j, affine.from(16 * j));
    }
    for (int q = 0; q < method.planes; ++q) dst[q * plane_step] = minus_of(codes, q) & low_bits(count);
  }

  /// Four words of 8 or 16 channels share the 64 codes of one step.
  template <int OCTETS>
  void short_words(const T* src, int64_t step, const Affine& affine, int64_t n, uint64_t* dst) const {
    const Method local = method;
    for (int64_t i = 0; i < n; i += 4) {
      uint8x16_t codes[4];
      for (int j = 0; j < 4; ++j) {  // past the last word: the last one again
        codes[j] = codes_of<EACH, OCTETS>(local, src + (i + j < n ? i + j : n - 1) * step, affine);
      }
      for (int q = 0; q < local.planes; ++q) {
        const uint64_t minus = minus_of(codes, q);
        for (int j = 0; j < 4 && i + j < n; ++j) dst[q * plane_step + i + j] = minus >> 16 * j & low_bits(8 * OCTETS);
      }
    }
  }

  void short_words(const T* src, int64_t step, const Affine& affine, int64_t channels, int64_t n,
                   uint64_t* dst) const override {
    if (channels == 8) return short_words<1>(src, step, affine, n, dst);
    return short_words<2>(src, step, affine, n, dst);
  }

  /// Eight channels of 16 pixels: bit r of byte p of out[q] is plane q of channel r of pixel p. Bits are shifted in
  /// from the right, last channel first; every plane leaves the next one's bits in the lowest place.
  static void eight_channels(const Method& method, const T* src, int64_t step, const Affine& affine, int64_t count,
                             uint8x16_t out[ABCFX_MAX_BASES]) {
    uint8x16_t rows[8];
    for (int r = 0; r < 8; ++r) {
      rows[r] = vdupq_n_u8(0);
      if (r < count) rows[r] = codes_of<ALL, 2>(method, src + r * step, affine.from(r));
    }
    for (int q = 0; q < method.planes; ++q) {
      out[q] = vdupq_n_u8(0);
      for (int r = 7; r >= 0; --r) {
        out[q] = vsliq_n_u8(rows[r], out[q], 1);
        rows[r] = vshrq_n_u8(rows[r], 1);
      }
    }
  }

  /// Eight channels of all tiles, then the next eight: eight streams of memory at a time, not sixty-four, whose lines
  /// would share few sets of the first cache where images have a power of two of pixels.
  void tiles(const T* src, int64_t step, const Affine& affine, int64_t count, int64_t pixels, const int64_t* at,
             uint64_t* dst) const override {
    const Method local = method;
    const int64_t tiles = (pixels + TILE - 1) / TILE;
    const auto start = [=](int64_t tile) { return TILE * tile + TILE < pixels ? TILE * tile : pixels - TILE; };
    uint8x16_t bytes[Traits::TILES][ABCFX_MAX_BASES][8];
    for (int k = 0; k < 8; ++k, src += 8 * step) {
      for (int64_t t = 0; t < tiles; ++t) {
        uint8x16_t out[ABCFX_MAX_BASES] = {};
        if (8 * k < count) eight_channels(local, src + start(t), step, affine.from(8 * k), count - 8 * k, out);
        for (int q = 0; q < local.planes; ++q) bytes[t][q][k] = out[q];
      }
    }
    const uint64x2_t real = vdupq_n_u64(low_bits(count));
    for (int q = 0; q < local.planes; ++q, dst += plane_step) {
      for (int64_t t = 0; t < tiles; ++t) store_words(bytes[t][q], real, at + start(t), dst);
    }
  }

  /// The words of 16 pixels, from bytes of bits that are set where the plane is +1.
  static void store_words(const uint8x16_t bytes[8], uint64x2_t real, const int64_t* at, uint64_t* dst) {
    uint64x2_t words[8];
    interleave(bytes, words);
    for (int i = 0; i < 8; ++i) {
      const uint64x2_t two = vbicq_u64(real, words[i]);
      dst[at[2 * i]] = vgetq_lane_u64(two, 0);
      dst[at[2 * i + 1]] = vgetq_lane_u64(two, 1);
    }
  }
};

template <class T, class Method>
int pack(const Job& job) {
  if (job.args->gain) return walk<Traits, T>(job, Quantize<T, Method, true>(job));
  return walk<Traits, T>(job, Quantize<T, Method, false>(job));
}

}  // namespace

extern "C" int abcfx_pack_neon(const abcfx_pack_args* args) {
  if (!valid(*args)) return ABCFX_BAD_SHAPE;
  const Job job = job_of(*args);
  const bool compared = !job.levels.coded || (job.levels.planes == 1 && monotone(job.levels));
  return with_type(job, [&](auto type) {
    using T = std::remove_cvref_t<decltype(*type)>;
    return compared ? pack<T, Compared>(job) : pack<T, Steps>(job);
  });
}
