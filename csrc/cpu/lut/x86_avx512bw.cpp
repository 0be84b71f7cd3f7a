// AVX-512 BW: 64 output channels a vector. Needs no vector popcount, so it also runs where the xnor kernel does not.
#include "tables_x86.h"
#include "product.h"  // calls make_tables

#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512DQ__) || !defined(__AVX512VL__)
#error "compile this file with -mavx512f -mavx512bw -mavx512dq -mavx512vl"
#endif

namespace {

struct V {
  using vec = __m512i;
  using fvec = __m512;
  static constexpr int LANES = 64, FLOATS = 16;

  static vec load(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static void store(uint8_t* p, vec v) { _mm512_storeu_si512(p, v); }
  static vec keep(vec v) {
#if !defined(ABCFX_EMULATED)  // tests/kernels/emulated: vectors that no register holds
    __asm__("" : "+v"(v));
#endif
    return v;
  }
  static vec zero() { return _mm512_setzero_si512(); }
  static vec low4(vec v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
  static vec high4(vec v) { return _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15)); }
  static vec table(const uint8_t* p) { return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)p)); }
  static vec lookup(vec table, vec index) { return _mm512_shuffle_epi8(table, index); }
  static vec add8(vec a, vec b) { return _mm512_add_epi8(a, b); }
  static vec add16(vec a, vec b) { return _mm512_add_epi16(a, b); }
  static vec sub16(vec a, vec b) { return _mm512_sub_epi16(a, b); }
  static vec set16(short value) { return _mm512_set1_epi16(value); }
  static vec high8(vec v) { return _mm512_srli_epi16(v, 8); }
  static vec low8to16(vec both, vec odd) { return _mm512_sub_epi16(both, _mm512_slli_epi16(odd, 8)); }
  static fvec to_float(vec v, int half) {
    const __m256i words = half ? _mm512_extracti64x4_epi64(v, 1) : _mm512_castsi512_si256(v);
    return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(words));
  }
  static fvec fload(const float* p) { return _mm512_loadu_ps(p); }
  static void fstore(float* p, fvec v) { _mm512_storeu_ps(p, v); }
  static fvec fset(float value) { return _mm512_set1_ps(value); }
  static fvec fsub(fvec a, fvec b) { return _mm512_sub_ps(a, b); }
  static fvec fmadd(fvec a, fvec b, fvec c) { return _mm512_fmadd_ps(a, b, c); }
};

}  // namespace

extern "C" int abcfx_lut_avx512bw(const abcfx_lut_args* args) { return run_product<V>(*args); }
