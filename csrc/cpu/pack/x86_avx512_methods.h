#pragma once
#include <immintrin.h>

#include "thresholds.h"
#include "walk.h"

// AVX-512: from 64 values to one mask a plane, set where the plane is +1, in the three ways that a code can be had. The
// same mathematics as x86_avx2_methods.h; values that do not exist are read as zero and their bits mean nothing.

namespace {

/// Four times sixteen values, of which those in `real` exist, each quarter with the affine of its channels: together in
/// memory, or from several short pixels.
template <class T>
struct Quarters {
  const T* at[4];
  __mmask16 real[4];
  Affine affine[4];
  bool together;
};

inline __m512 load(const F32* src, __mmask16 real) { return _mm512_maskz_loadu_ps(real, src); }
inline __m512 load(const Bf16* src, __mmask16 real) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(real, src));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
inline __m512 load(const F16* src, __mmask16 real) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(real, src));
}

/// The clip after an affine: vmaxps and vminps return their second operand if one is NaN, so that a NaN stays.
inline __m512 clipped(__m512 x, const Affine& affine) {
  const __m512 above = _mm512_max_ps(_mm512_set1_ps(affine.low), x);
  return _mm512_min_ps(_mm512_set1_ps(affine.high), above);
}

/// How an affine meets sixteen values: not at all, channel by channel, or (tiles) one channel for all.
enum class Meets { NEVER, EACH, ALL };

template <Meets MEETS, class T>
inline __m512 value(const Quarters<T>& quarters, int i) {
  const __mmask16 real = quarters.real[i];
  const __m512 x = load(quarters.at[i], real);
  if constexpr (MEETS == Meets::NEVER) return x;
  const Affine& affine = quarters.affine[i];
  if constexpr (MEETS == Meets::EACH) {
    const __m512 gain = _mm512_maskz_loadu_ps(real, affine.gain), offset = _mm512_maskz_loadu_ps(real, affine.offset);
    return clipped(_mm512_add_ps(_mm512_mul_ps(x, gain), offset), affine);
  }
  const __m512 moved = _mm512_mul_ps(x, _mm512_set1_ps(*affine.gain));
  return clipped(_mm512_add_ps(moved, _mm512_set1_ps(*affine.offset)), affine);
}

inline __mmask64 joined(uint32_t low, uint32_t high) { return low | (uint64_t)high << 32; }

/// Coded levels, computed. PLANES 0: as many as `planes` says.
template <class T, int PLANES>
struct Steps {
  __m512 shift, inverse, top;
  int planes;

  explicit Steps(const Levels& levels)
      : shift(_mm512_set1_ps(levels.shift)),
        inverse(_mm512_set1_ps(levels.inverse)),
        top(_mm512_set1_ps(levels.top)),
        planes(levels.planes) {}

  /// vminps returns its second operand if that is NaN, vcvtps2dq makes INT_MIN of a NaN and of what is far below zero,
  /// and the packs saturate that to code 0: no maximum with zero is needed. The packs interleave the four vectors by
  /// 128-bit lanes; the permutation puts dword d, values 4 d to 4 d + 3, back in order.
  template <Meets MEETS>
  void plus_of(const Quarters<T>& quarters, __mmask64* plus) const {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i code[4];
    for (int i = 0; i < 4; ++i) {
      const __m512 t = _mm512_mul_ps(_mm512_sub_ps(value<MEETS>(quarters, i), shift), inverse);
      code[i] = _mm512_cvtps_epi32(_mm512_min_ps(top, t));
    }
    const __m512i low = _mm512_packs_epi32(code[0], code[1]), high = _mm512_packs_epi32(code[2], code[3]);
    const __m512i codes = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high));
    for (int q = 0; q < (PLANES ? PLANES : planes); ++q) {
      plus[q] = _mm512_test_epi8_mask(codes, _mm512_set1_epi8((char)(1 << q)));
    }
  }
};

/// Thermometer levels, and coded ones of one plane: compared with f32 thresholds.
template <class T, int PLANES>
struct Compared {
  __m512 threshold[PLANES ? PLANES : ABCFX_MAX_BASES];
  int planes;

  explicit Compared(const Levels& levels) : planes(levels.planes) {
    for (int q = 0; q < levels.planes; ++q) threshold[q] = _mm512_set1_ps(threshold_of(levels, q));
  }

  template <Meets MEETS>
  void plus_of(const Quarters<T>& quarters, __mmask64* plus) const {
    __m512 x[4];
    for (int i = 0; i < 4; ++i) x[i] = value<MEETS>(quarters, i);
    for (int q = 0; q < (PLANES ? PLANES : planes); ++q) {
      uint32_t part[4];
      for (int i = 0; i < 4; ++i) part[i] = _mm512_cmp_ps_mask(x[i], threshold[q], _CMP_GE_OQ);
      plus[q] = joined(part[0] | part[1] << 16, part[2] | part[3] << 16);
    }
  }
};

/// Values of 16 bits compared as integers, without widening: ±magnitude orders them (thresholds.h), and adding what
/// lies between infinity and the largest integer makes every +NaN wrap around to the bottom, where -NaN is already.
/// SELECT: coded levels of two planes; plane 1 says with which threshold plane 0 compares.
template <class T, int PLANES, bool SELECT>
struct Keys {
  static constexpr int GAP = 0x7fff - (int)T::INFINITE;
  __m512i below[SELECT ? 3 : PLANES ? PLANES : ABCFX_MAX_BASES];  ///< the last key that is not enough
  int planes;

  explicit Keys(const Levels& levels) : planes(levels.planes) {
    const int count = SELECT ? 3 : levels.planes;
    for (int i = 0; i < count; ++i) {
      const int32_t key = levels.coded ? first_key_of_code<T>(levels, i + 1) : first_key_of_plane<T>(levels, i);
      below[i] = _mm512_set1_epi16((int16_t)(key - 1 + GAP));
    }
  }

  /// Keys of values 32 i to 32 i + 31.
  static __m512i keys(const Quarters<T>& quarters, int i) {
    const T *low = quarters.at[2 * i], *high = quarters.at[2 * i + 1];
    const __mmask16 real_low = quarters.real[2 * i], real_high = quarters.real[2 * i + 1];
    __m512i bits;
    if (quarters.together) {
      bits = _mm512_maskz_loadu_epi16(real_low | (uint32_t)real_high << 16, low);
    } else {
      const __m256i upper = _mm256_maskz_loadu_epi16(real_high, high);
      bits = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_maskz_loadu_epi16(real_low, low)), upper, 1);
    }
    const __m512i magnitude = _mm512_and_si512(bits, _mm512_set1_epi16(0x7fff));
    const __m512i key = _mm512_mask_sub_epi16(magnitude, _mm512_movepi16_mask(bits), _mm512_setzero_si512(), magnitude);
    return _mm512_add_epi16(key, _mm512_set1_epi16(GAP));
  }

  template <Meets MEETS>
  void plus_of(const Quarters<T>& quarters, __mmask64* plus) const {
    static_assert(MEETS == Meets::NEVER);
    const __m512i k[2] = {keys(quarters, 0), keys(quarters, 1)};
    if constexpr (SELECT) {
      uint32_t low[2], high[2];
      for (int i = 0; i < 2; ++i) {
        high[i] = _mm512_cmpgt_epi16_mask(k[i], below[1]);
        low[i] = _mm512_cmpgt_epi16_mask(k[i], _mm512_mask_blend_epi16(high[i], below[0], below[2]));
      }
      plus[0] = joined(low[0], low[1]);
      plus[1] = joined(high[0], high[1]);
    } else {
      for (int q = 0; q < (PLANES ? PLANES : planes); ++q) {
        plus[q] = joined(_mm512_cmpgt_epi16_mask(k[0], below[q]), _mm512_cmpgt_epi16_mask(k[1], below[q]));
      }
    }
  }
};

}  // namespace
