// AVX2: a comparison of eight values is a byte of eight bits, by movmskps.
#include <immintrin.h>

#include "dither.h"
#include "walk.h"

#if !defined(__AVX2__) || !defined(__F16C__)
#error "compile this file with -mavx2 -mf16c"
#endif

namespace {

inline __m256 load(const F32* src) { return _mm256_loadu_ps(&src->value); }
inline __m256 load(const Bf16* src) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)src)), 16));
}
inline __m256 load(const F16* src) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)src)); }

inline uint8_t bits_of(__m256 mask) { return (uint8_t)_mm256_movemask_ps(mask); }

/// dither.h on eight consecutive elements.
inline __m256 dither(__m256i element) {
  __m256i h = _mm256_xor_si256(element, _mm256_srli_epi32(element, 16));
  h = _mm256_mullo_epi32(h, _mm256_set1_epi32((int)DITHER_FIRST));
  h = _mm256_xor_si256(h, _mm256_srli_epi32(h, 15));
  h = _mm256_mullo_epi32(h, _mm256_set1_epi32((int)DITHER_SECOND));
  h = _mm256_xor_si256(h, _mm256_srli_epi32(h, 16));
  return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srli_epi32(h, 8)), _mm256_set1_ps(0x1p-24f));
}

struct Avx2 {
  template <class T>
  static void coded(const T* src, uint32_t first, float shift, float inverse, float top, uint8_t* low, uint8_t* high) {
    constexpr int NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    const __m256 o = _mm256_set1_ps(shift), step = _mm256_set1_ps(inverse), last = _mm256_set1_ps(top);
    const __m256 zero = _mm256_setzero_ps(), half = _mm256_set1_ps(0.5f);
    __m256i element = _mm256_add_epi32(_mm256_set1_epi32((int)first), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    for (int64_t i = 0; i < BLOCK_BYTES; ++i) {
      const __m256 t = _mm256_mul_ps(_mm256_sub_ps(load(src + 8 * i), o), step);
      const __m256 at_least = _mm256_cmp_ps(t, zero, _CMP_GE_OQ), above = _mm256_cmp_ps(t, last, _CMP_GT_OQ);
      const __m256 inside = _mm256_andnot_ps(above, at_least);  // a NaN fails the first
      const __m256 residual = _mm256_sub_ps(_mm256_round_ps(t, NEAREST), t);
      const __m256 up = _mm256_cmp_ps(_mm256_add_ps(residual, half), dither(element), _CMP_GT_OQ);
      low[i] = bits_of(inside);
      high[i] = bits_of(_mm256_or_ps(_mm256_and_ps(inside, up), above));
      element = _mm256_add_epi32(element, _mm256_set1_epi32(8));
    }
  }

  template <class T>
  static void thermometer(const T* src, Edges edges, float threshold, uint8_t* low, uint8_t* high) {
    const __m256 least = _mm256_set1_ps(edges.least), greatest = _mm256_set1_ps(edges.greatest);
    const __m256 step = _mm256_set1_ps(threshold);
    for (int64_t i = 0; i < BLOCK_BYTES; ++i) {
      const __m256 x = load(src + 8 * i);
      const __m256 begins = _mm256_cmp_ps(x, least, _CMP_GE_OQ), ends = _mm256_cmp_ps(x, greatest, _CMP_LE_OQ);
      low[i] = bits_of(_mm256_and_ps(begins, ends));
      high[i] = bits_of(_mm256_cmp_ps(x, step, _CMP_NGE_UQ));
    }
  }
};

}  // namespace

extern "C" int abcfx_window_avx2(const abcfx_window_args* args) { return run<Avx2>(*args); }
