// AVX2: 32 output channels a vector; vpshufb looks up 32 sums of four products at once.
#include "tables_x86.h"
#include "product.h"  // calls make_tables

#if !defined(__AVX2__) || !defined(__FMA__)
#error "compile this file with -mavx2 -mfma"
#endif

namespace {

struct V {
  using vec = __m256i;
  using fvec = __m256;
  static constexpr int LANES = 32, FLOATS = 8;

  static vec load(const uint8_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
  static void store(uint8_t* p, vec v) { _mm256_storeu_si256((__m256i*)p, v); }
  static vec keep(vec v) {
    __asm__("" : "+x"(v));
    return v;
  }
  static vec zero() { return _mm256_setzero_si256(); }
  static vec low4(vec v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
  static vec high4(vec v) { return _mm256_and_si256(_mm256_srli_epi16(v, 4), _mm256_set1_epi8(15)); }
  static vec table(const uint8_t* p) { return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)p)); }
  static vec lookup(vec table, vec index) { return _mm256_shuffle_epi8(table, index); }
  static vec add8(vec a, vec b) { return _mm256_add_epi8(a, b); }
  static vec add16(vec a, vec b) { return _mm256_add_epi16(a, b); }
  static vec sub16(vec a, vec b) { return _mm256_sub_epi16(a, b); }
  static vec set16(short value) { return _mm256_set1_epi16(value); }
  static vec high8(vec v) { return _mm256_srli_epi16(v, 8); }
  static vec low8to16(vec both, vec odd) { return _mm256_sub_epi16(both, _mm256_slli_epi16(odd, 8)); }
  static fvec to_float(vec v, int half) {
    const __m128i words = half ? _mm256_extracti128_si256(v, 1) : _mm256_castsi256_si128(v);
    return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(words));
  }
  static fvec fload(const float* p) { return _mm256_loadu_ps(p); }
  static void fstore(float* p, fvec v) { _mm256_storeu_ps(p, v); }
  static fvec fset(float value) { return _mm256_set1_ps(value); }
  static fvec fsub(fvec a, fvec b) { return _mm256_sub_ps(a, b); }
  static fvec fmadd(fvec a, fvec b, fvec c) { return _mm256_fmadd_ps(a, b, c); }
};

}  // namespace

extern "C" int abcfx_lut_avx2(const abcfx_lut_args* args) { return run_product<V>(*args); }
