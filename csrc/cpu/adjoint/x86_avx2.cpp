// AVX2: a byte of bits, broadcast and tested bit by bit, is a mask of eight lanes.
#include <immintrin.h>

#include "walk.h"

#if !defined(__AVX2__)
#error "compile this file with -mavx2"
#endif

namespace {

struct Masks {
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);

  __m256 operator()(uint8_t byte) const {
    const __m256i all = _mm256_set1_epi8((char)byte);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(all, bit), bit));
  }
};

struct Avx2 {
  static void coded(const float* grad, const uint8_t* inside, const uint8_t* bit, float* dx, float part[3][LANES]) {
    const Masks mask;
    const __m256 one = _mm256_set1_ps(1.0f), sign = _mm256_set1_ps(-0.0f);
    __m256 signed_sum = _mm256_setzero_ps(), above_sum = signed_sum, outside_sum = signed_sum;
    for (int64_t i = 0; i < BLOCK_BYTES; ++i) {
      const __m256 g = _mm256_loadu_ps(grad + 8 * i), in = mask(inside[i]), set = mask(bit[i]);
      const __m256 inner = _mm256_mul_ps(g, _mm256_and_ps(in, one));
      const __m256 outer = _mm256_mul_ps(g, _mm256_andnot_ps(in, one));
      _mm256_storeu_ps(dx + 8 * i, inner);
      signed_sum = _mm256_add_ps(signed_sum, _mm256_xor_ps(inner, _mm256_andnot_ps(set, sign)));
      above_sum = _mm256_add_ps(above_sum, _mm256_mul_ps(outer, _mm256_and_ps(set, one)));
      outside_sum = _mm256_add_ps(outside_sum, outer);
    }
    _mm256_storeu_ps(part[0], signed_sum);
    _mm256_storeu_ps(part[1], above_sum);
    _mm256_storeu_ps(part[2], outside_sum);
  }

  static void thermometer(const float* grad, const uint8_t* window, const uint8_t* minus, float beta, bool first,
                          float* dx, float part[2][LANES]) {
    const Masks mask;
    const __m256 one = _mm256_set1_ps(1.0f), sign = _mm256_set1_ps(-0.0f), scale = _mm256_set1_ps(beta);
    __m256 signed_sum = _mm256_setzero_ps(), window_sum = signed_sum;
    for (int64_t i = 0; i < BLOCK_BYTES; ++i) {
      const __m256 g = _mm256_loadu_ps(grad + 8 * i);
      const __m256 inner = _mm256_mul_ps(g, _mm256_and_ps(mask(window[i]), one));
      const __m256 before = first ? _mm256_setzero_ps() : _mm256_loadu_ps(dx + 8 * i);
      _mm256_storeu_ps(dx + 8 * i, _mm256_add_ps(before, _mm256_mul_ps(scale, inner)));
      signed_sum = _mm256_add_ps(signed_sum, _mm256_xor_ps(g, _mm256_and_ps(mask(minus[i]), sign)));
      window_sum = _mm256_add_ps(window_sum, inner);
    }
    _mm256_storeu_ps(part[0], signed_sum);
    _mm256_storeu_ps(part[1], window_sum);
  }
};

}  // namespace

extern "C" int abcfx_adjoint_avx2(const abcfx_adjoint_args* args) { return run<Avx2>(*args); }
