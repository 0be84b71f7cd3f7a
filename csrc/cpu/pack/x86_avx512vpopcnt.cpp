// AVX-512. 64 values become one mask a plane, set where the plane is +1: a word, if the values are contiguous channels;
// if they are pixels of a channel, one bit of a byte in each of 64 pixels, and eight such bytes are a word.
#include <type_traits>

#include "x86_avx512_methods.h"

#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512DQ__) || !defined(__AVX512VL__)
#error "compile this file with -mavx512f -mavx512bw -mavx512dq -mavx512vl"
#endif

namespace {

/// Byte p of eight registers, side by side: lane L of out[i] holds pixels 16 L + 2 i and 16 L + 2 i + 1.
inline void interleave(const __m512i rows[8], __m512i out[8]) {
  __m512i pairs[8], fours[8];
  for (int i = 0; i < 4; ++i) {
    pairs[i] = _mm512_unpacklo_epi8(rows[2 * i], rows[2 * i + 1]);
    pairs[4 + i] = _mm512_unpackhi_epi8(rows[2 * i], rows[2 * i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {  // pixels 0 to 7 of a lane, then 8 to 15
    fours[i] = _mm512_unpacklo_epi16(pairs[i], pairs[i + 1]);
    fours[i + 1] = _mm512_unpackhi_epi16(pairs[i], pairs[i + 1]);
    fours[i + 2] = _mm512_unpacklo_epi16(pairs[i + 2], pairs[i + 3]);
    fours[i + 3] = _mm512_unpackhi_epi16(pairs[i + 2], pairs[i + 3]);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int j = 0; j < 2; ++j) {
      out[i + 2 * j] = _mm512_unpacklo_epi32(fours[i + j], fours[i + j + 2]);
      out[i + 2 * j + 1] = _mm512_unpackhi_epi32(fours[i + j], fours[i + j + 2]);
    }
  }
}

struct Traits {
  static constexpr int TILE = 64, TILES = 4;
  static constexpr bool ANY_COUNT = true;
  static constexpr bool is_short(int64_t channels) { return channels > 0 && channels <= 32; }
};

template <class T, class Method, int PLANES, bool AFFINE>
struct Quantize final : Kernel<T> {
  static constexpr int TILE = Traits::TILE;
  static constexpr int ROOM = PLANES ? PLANES : ABCFX_MAX_BASES;
  static constexpr Meets EACH = AFFINE ? Meets::EACH : Meets::NEVER, ALL = AFFINE ? Meets::ALL : Meets::NEVER;

  Method method;
  int64_t plane_step;

  explicit Quantize(const Job& job) : method(job.levels), plane_step(job.plane_step) {}

  /// `count` contiguous values; `each`: their channels follow each other too.
  static Quarters<T> contiguous(const T* src, const Affine& affine, int64_t count, bool each) {
    const uint64_t real = low_bits(count);
    Quarters<T> quarters;
    quarters.together = true;
    for (int i = 0; i < 4; ++i) {
      quarters.at[i] = src + 16 * i;
      quarters.real[i] = (__mmask16)(real >> 16 * i);
      if (AFFINE) quarters.affine[i] = each ? affine.from(16 * i) : affine;
    }
    return quarters;
  }

  void words(const T* src, const Affine& affine, int64_t n, int64_t pixels, int64_t step, uint64_t* dst,
             int64_t dst_step) const override {
    const Method local = method;  // nothing written through dst can change it: it stays in registers
    const int64_t plane = plane_step;
    for (int64_t x = 0; x < pixels; ++x, src += step, dst += dst_step) {
      for (int64_t i = 0; i < n; ++i) {
        __mmask64 plus[ROOM];
        local.template plus_of<EACH>(contiguous(src + 64 * i, affine.from(64 * i), 64, true), plus);
        for (int q = 0; q < (PLANES ? PLANES : local.planes); ++q) dst[q * plane + i] = ~(uint64_t)plus[q];
      }
    }
  }

  void word(const T* src, const Affine& affine, int64_t count, uint64_t* dst) const override {
    __mmask64 plus[ROOM];
    method.template plus_of<EACH>(contiguous(src, affine, count, true), plus);
    for (int q = 0; q < (PLANES ? PLANES : method.planes); ++q) {
      dst[q * plane_step] = ~(uint64_t)plus[q] & low_bits(count);
    }
  }

  /// Four words of up to 16 channels, or two of up to 32, share the 64 values of one step.
  void short_words(const T* src, int64_t step, const Affine& affine, int64_t channels, int64_t n,
                   uint64_t* dst) const override {
    const Method local = method;
    const int quarters_each = channels <= 16 ? 1 : 2, share = 4 / quarters_each;
    for (int64_t i = 0; i < n; i += share) {
      Quarters<T> quarters;
      quarters.together = false;
      for (int j = 0; j < 4; ++j) {
        const int64_t word = i + j / quarters_each, channel = 16 * (j % quarters_each);
        quarters.at[j] = word < n ? src + word * step + channel : src;
        quarters.real[j] = word < n ? (__mmask16)low_bits(channels - channel) : (__mmask16)0;
        if (AFFINE) quarters.affine[j] = affine.from(channel);
      }
      __mmask64 plus[ROOM];
      local.template plus_of<EACH>(quarters, plus);
      for (int j = 0; j < share && i + j < n; ++j) {
        for (int q = 0; q < (PLANES ? PLANES : local.planes); ++q) {
          dst[q * plane_step + i + j] = ~((uint64_t)plus[q] >> 16 * quarters_each * j) & low_bits(channels);
        }
      }
    }
  }

  /// Eight channels of 64 pixels, or `channels` of `pixels` of them: bit r of byte p of out[q] is plane q of channel r
  /// of pixel p.
  static void eight_channels(const Method& method, const T* src, int64_t step, const Affine& affine, int64_t channels,
                             int64_t pixels, __m512i out[ROOM]) {
    const int planes = PLANES ? PLANES : method.planes;
    for (int q = 0; q < planes; ++q) out[q] = _mm512_setzero_si512();
    for (int r = 0; r < 8 && r < channels; ++r, src += step) {
      prefetch<TILE>(src + TILE);
      __mmask64 plus[ROOM];
      method.template plus_of<ALL>(contiguous(src, affine.from(r), pixels, false), plus);
      const __m512i bit = _mm512_set1_epi8((char)(1 << r));
      for (int q = 0; q < planes; ++q) out[q] = _mm512_or_si512(out[q], _mm512_maskz_mov_epi8(plus[q], bit));
    }
  }

  /// Eight channels of all tiles, then the next eight: see the AVX2 variant.
  void tiles(const T* src, int64_t step, const Affine& affine, int64_t count, int64_t pixels, const int64_t* at,
             uint64_t* dst) const override {
    const Method local = method;
    const int planes = PLANES ? PLANES : local.planes;
    __m512i bytes[Traits::TILES][ROOM][8];
    for (int k = 0; k < 8; ++k, src += 8 * step) {
      for (int64_t t = 0; t * TILE < pixels; ++t) {
        const int64_t left = pixels - t * TILE < TILE ? pixels - t * TILE : TILE;
        __m512i out[ROOM];
        eight_channels(local, src + t * TILE, step, affine.from(8 * k), count - 8 * k, left, out);
        for (int q = 0; q < planes; ++q) bytes[t][q][k] = out[q];
      }
    }
    const uint64_t real = low_bits(count);
    for (int q = 0; q < planes; ++q, dst += plane_step) {
      for (int64_t t = 0; t * TILE < pixels; ++t) {
        const int64_t left = pixels - t * TILE < TILE ? pixels - t * TILE : TILE;
        store_words(bytes[t][q], real, left, at + t * TILE, dst);
      }
    }
  }

  /// The words of `pixels` pixels, from bytes of bits that are set where the plane is +1.
  static void store_words(const __m512i bytes[8], uint64_t real, int64_t pixels, const int64_t* at, uint64_t* dst) {
    alignas(64) uint64_t words[8][8];
    __m512i sorted[8];
    interleave(bytes, sorted);
    for (int i = 0; i < 8; ++i) _mm512_storeu_si512(words[i], sorted[i]);
    for (int64_t p = 0; p < pixels; ++p) dst[at[p]] = ~words[p % 16 / 2][p / 16 * 2 + p % 2] & real;
  }
};

template <class T, class Method, int PLANES, bool AFFINE>
int run(const Job& job) {
  return walk<Traits, T>(job, Quantize<T, Method, PLANES, AFFINE>(job));
}

/// Thresholds where one comparison is all that a plane takes; two planes of 16-bit codes take three between them.
template <class T, bool AFFINE>
int pack(const Job& job) {
  const bool coded = job.levels.coded, simple = !coded || monotone(job.levels);
  const int planes = job.levels.planes;
  if constexpr (sizeof(T) == 2 && !AFFINE) {
    if (planes == 1 && simple) return run<T, Keys<T, 1, false>, 1, AFFINE>(job);
    if (planes == 2 && simple && coded) return run<T, Keys<T, 2, true>, 2, AFFINE>(job);
    if (!coded) return run<T, Keys<T, 0, false>, 0, AFFINE>(job);
  } else {
    if (planes == 1 && simple) return run<T, Compared<T, 1>, 1, AFFINE>(job);
    if (planes == 2 && coded) return run<T, Steps<T, 2>, 2, AFFINE>(job);
    if (planes == 2) return run<T, Compared<T, 2>, 2, AFFINE>(job);
    if (!coded) return run<T, Compared<T, 0>, 0, AFFINE>(job);
  }
  if (planes == 3) return run<T, Steps<T, 3>, 3, AFFINE>(job);
  if (planes == 4) return run<T, Steps<T, 4>, 4, AFFINE>(job);
  return run<T, Steps<T, 0>, 0, AFFINE>(job);
}

}  // namespace

extern "C" int abcfx_pack_avx512vpopcnt(const abcfx_pack_args* args) {
  if (!valid(*args)) return ABCFX_BAD_SHAPE;
  const Job job = job_of(*args);
  return with_type(job, [&](auto type) {
    using T = std::remove_cvref_t<decltype(*type)>;
    return args->gain ? pack<T, true>(job) : pack<T, false>(job);
  });
}
