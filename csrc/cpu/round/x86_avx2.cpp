// AVX2: eight codes at a time; two 32-bit multiplications a code are the price of a counter-based hash.
#include <immintrin.h>

#include "walk.h"

#if !defined(__AVX2__)
#error "compile this file with -mavx2"
#endif

namespace {

inline __m256i xor_shifted(__m256i x, int bits) { return _mm256_xor_si256(x, _mm256_srli_epi32(x, bits)); }

template <bool SIGNS>
struct Round {
  Keys keys;
  Range range;

  /// Eight uniform numbers, of places index .. index + 7.
  __m256 uniform(uint32_t index) const {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i x = _mm256_add_epi32(_mm256_set1_epi32((int)(index + keys.first)), lanes);
    x = _mm256_mullo_epi32(xor_shifted(x, 16), _mm256_set1_epi32((int)FIRST_FACTOR));
    x = _mm256_xor_si256(xor_shifted(x, 15), _mm256_set1_epi32((int)keys.second));
    x = xor_shifted(_mm256_mullo_epi32(x, _mm256_set1_epi32((int)SECOND_FACTOR)), 16);
    return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srli_epi32(x, 8)), _mm256_set1_ps(0x1p-24f));
  }

  /// The f32 codes of eight t. max_ps returns its second operand for a NaN.
  __m256 code(__m256 t, __m256 u) const {
    const __m256 one = _mm256_set1_ps(1.0f);
    if (SIGNS) {
      const __m256 middle = _mm256_mul_ps(_mm256_add_ps(t, one), _mm256_set1_ps(0.5f));
      return _mm256_blendv_ps(_mm256_set1_ps(-1.0f), one, _mm256_cmp_ps(u, middle, _CMP_LT_OQ));
    }
    const __m256 floor = _mm256_floor_ps(t), up = _mm256_cmp_ps(u, _mm256_sub_ps(t, floor), _CMP_LT_OQ);
    const __m256 k = _mm256_add_ps(floor, _mm256_and_ps(up, one));
    return _mm256_min_ps(_mm256_max_ps(k, _mm256_set1_ps(range.low)), _mm256_set1_ps(range.high));
  }

  __m256i eight(__m256 src, __m256 gain, __m256 inverse, uint32_t index) const {
    const __m256 t = _mm256_mul_ps(_mm256_mul_ps(src, gain), inverse);
    return _mm256_srli_epi32(_mm256_castps_si256(code(t, uniform(index))), 16);
  }

  void operator()(const float* src, const float* gain, float inverse, uint32_t index, int64_t count,
                  uint16_t* dst) const {
    const __m256 scale = _mm256_set1_ps(inverse);
    int64_t c = 0;
    for (; c + 16 <= count; c += 16) {
      const __m256i low = eight(_mm256_loadu_ps(src + c), _mm256_loadu_ps(gain + c), scale, index + (uint32_t)c);
      const __m256i high =
          eight(_mm256_loadu_ps(src + c + 8), _mm256_loadu_ps(gain + c + 8), scale, index + (uint32_t)c + 8);
      const __m256i both = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
      _mm256_storeu_si256((__m256i*)(dst + c), both);
    }
    for (; c < count; c += 8) {
      const int64_t left = count - c < 8 ? count - c : 8;
      const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
      const __m256i real = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)left), lanes);
      const __m256i codes = eight(_mm256_maskload_ps(src + c, real), _mm256_maskload_ps(gain + c, real), scale,
                                  index + (uint32_t)c);
      alignas(32) uint32_t wide[8];
      _mm256_store_si256((__m256i*)wide, codes);
      for (int64_t i = 0; i < left; ++i) dst[c + i] = (uint16_t)wide[i];
    }
  }
};

}  // namespace

extern "C" int abcfx_round_avx2(const abcfx_round_args* args) {
  if (!valid(*args)) return ABCFX_BAD_SHAPE;
  const Keys keys(args->seed);
  const Range range(args->planes);
  return args->planes == 1 ? walk(*args, Round<true>{keys, range}) : walk(*args, Round<false>{keys, range});
}
