#pragma once
#include <immintrin.h>

#include "thresholds.h"
#include "walk.h"

// AVX2: from 32 values to bytes, in the three ways that a code can be had. A method turns four octets of values into
//
//   SHARED    one register of 32 codes, all planes in it
//   otherwise one register for each plane, 0xff where the plane is +1
//
// in the order that the saturating packs leave behind; natural() puts the bytes into the order of the values.

namespace {

/// Four times eight values, each octet with the affine of its channels: together in memory (OCTETS of the four exist),
/// or from several short pixels.
template <class T>
struct Octets {
  const T* at[4];
  Affine affine[4];
  bool together;
};

inline __m256 load(const F32* src) { return _mm256_loadu_ps(&src->value); }
inline __m256 load(const Bf16* src) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)src));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
inline __m256 load(const F16* src) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)src)); }

/// The clip after an affine: vmaxps and vminps return their second operand if one is NaN, so that a NaN stays.
inline __m256 clipped(__m256 x, const Affine& affine) {
  const __m256 above = _mm256_max_ps(_mm256_set1_ps(affine.low), x);
  return _mm256_min_ps(_mm256_set1_ps(affine.high), above);
}

/// How an affine meets eight values: not at all, channel by channel, or (tiles) one channel for all.
enum class Meets { NEVER, EACH, ALL };

template <Meets MEETS, int OCTETS, class T>
inline __m256 value(const Octets<T>& octets, int i) {
  if (i >= OCTETS) return _mm256_setzero_ps();
  const __m256 x = load(octets.at[i]);
  if constexpr (MEETS == Meets::NEVER) return x;
  const Affine& affine = octets.affine[i];
  if constexpr (MEETS == Meets::EACH) {
    const __m256 moved = _mm256_mul_ps(x, _mm256_loadu_ps(affine.gain));
    return clipped(_mm256_add_ps(moved, _mm256_loadu_ps(affine.offset)), affine);
  }
  const __m256 moved = _mm256_mul_ps(x, _mm256_broadcast_ss(affine.gain));
  return clipped(_mm256_add_ps(moved, _mm256_broadcast_ss(affine.offset)), affine);
}

/// 4 x 8 dwords to bytes, saturating; and the dwords back in order after it.
inline __m256i bytes_of(__m256i a, __m256i b, __m256i c, __m256i d) {
  return _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
}
inline __m256i masks_of(__m256i a, __m256i b, __m256i c, __m256i d) {
  return _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
}
inline __m256i dwords_in_order(__m256i bytes) {
  return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

/// Coded levels, computed. PLANES 0: as many as `planes` says.
template <class T, int PLANES>
struct Steps {
  static constexpr bool SHARED = true;
  __m256 shift, inverse, top;
  int planes;

  explicit Steps(const Levels& levels)
      : shift(_mm256_set1_ps(levels.shift)),
        inverse(_mm256_set1_ps(levels.inverse)),
        top(_mm256_set1_ps(levels.top)),
        planes(levels.planes) {}

  /// vminps returns its second operand if that is NaN, vcvtps2dq makes INT_MIN of a NaN and of what is far below zero,
  /// and the packs saturate that to code 0: no maximum with zero is needed.
  template <Meets MEETS, int OCTETS>
  void bytes(const Octets<T>& octets, __m256i out[1]) const {
    __m256i code[4];
    for (int i = 0; i < 4; ++i) {
      const __m256 x = value<MEETS, OCTETS>(octets, i);
      const __m256 t = _mm256_mul_ps(_mm256_sub_ps(x, shift), inverse);
      code[i] = _mm256_cvtps_epi32(_mm256_min_ps(top, t));
    }
    out[0] = bytes_of(code[0], code[1], code[2], code[3]);
  }
  static __m256i natural(__m256i bytes) { return dwords_in_order(bytes); }
};

/// Thermometer levels, and coded ones of one plane: compared with f32 thresholds.
template <class T, int PLANES>
struct Compared {
  static constexpr bool SHARED = false;
  __m256 threshold[PLANES ? PLANES : ABCFX_MAX_BASES];
  int planes;

  explicit Compared(const Levels& levels) : planes(levels.planes) {
    for (int q = 0; q < levels.planes; ++q) threshold[q] = _mm256_set1_ps(threshold_of(levels, q));
  }

  template <Meets MEETS, int OCTETS>
  void bytes(const Octets<T>& octets, __m256i* out) const {
    __m256 x[4];
    for (int i = 0; i < 4; ++i) x[i] = value<MEETS, OCTETS>(octets, i);
    for (int q = 0; q < (PLANES ? PLANES : planes); ++q) {
      __m256i plus[4];
      for (int i = 0; i < 4; ++i) plus[i] = _mm256_castps_si256(_mm256_cmp_ps(x[i], threshold[q], _CMP_GE_OQ));
      out[q] = masks_of(plus[0], plus[1], plus[2], plus[3]);
    }
  }
  static __m256i natural(__m256i bytes) { return dwords_in_order(bytes); }
};

/// Values of 16 bits compared as integers, without widening: ±magnitude orders them (thresholds.h), and adding what
/// lies between infinity and the largest integer makes every +NaN wrap around to the bottom, where -NaN is already.
/// SELECT: coded levels of two planes; plane 1 says with which threshold plane 0 compares.
template <class T, int PLANES, bool SELECT>
struct Keys {
  static constexpr bool SHARED = false;
  static constexpr int GAP = 0x7fff - (int)T::INFINITE;
  __m256i below[SELECT ? 3 : PLANES ? PLANES : ABCFX_MAX_BASES];  ///< the last key that is not enough
  int planes;

  explicit Keys(const Levels& levels) : planes(levels.planes) {
    const int count = SELECT ? 3 : levels.planes;
    for (int i = 0; i < count; ++i) {
      const int32_t key = levels.coded ? first_key_of_code<T>(levels, i + 1) : first_key_of_plane<T>(levels, i);
      below[i] = _mm256_set1_epi16((int16_t)(key - 1 + GAP));
    }
  }

  static __m256i key(__m256i bits) {
    const __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi16(0x7fff));
    return _mm256_add_epi16(_mm256_sign_epi16(magnitude, bits), _mm256_set1_epi16(GAP));
  }

  template <int OCTETS>
  static __m256i sixteen(const Octets<T>& octets, int i) {
    if (2 * i >= OCTETS) return _mm256_setzero_si256();
    if (octets.together && 2 * i + 2 <= OCTETS) return _mm256_loadu_si256((const __m256i*)octets.at[2 * i]);
    const __m128i low = _mm_loadu_si128((const __m128i*)octets.at[2 * i]);
    if (2 * i + 1 == OCTETS) return _mm256_zextsi128_si256(low);
    return _mm256_setr_m128i(low, _mm_loadu_si128((const __m128i*)octets.at[2 * i + 1]));
  }

  template <Meets MEETS, int OCTETS>
  void bytes(const Octets<T>& octets, __m256i* out) const {
    static_assert(MEETS == Meets::NEVER);
    __m256i k[2];
    for (int i = 0; i < 2; ++i) k[i] = key(sixteen<OCTETS>(octets, i));
    if constexpr (SELECT) {
      __m256i low[2], high[2];
      for (int i = 0; i < 2; ++i) {
        high[i] = _mm256_cmpgt_epi16(k[i], below[1]);
        low[i] = _mm256_cmpgt_epi16(k[i], _mm256_blendv_epi8(below[0], below[2], high[i]));
      }
      out[0] = _mm256_packs_epi16(low[0], low[1]);
      out[1] = _mm256_packs_epi16(high[0], high[1]);
    } else {
      for (int q = 0; q < (PLANES ? PLANES : planes); ++q) {
        out[q] = _mm256_packs_epi16(_mm256_cmpgt_epi16(k[0], below[q]), _mm256_cmpgt_epi16(k[1], below[q]));
      }
    }
  }
  static __m256i natural(__m256i bytes) { return _mm256_permute4x64_epi64(bytes, 0xd8); }
};

}  // namespace
