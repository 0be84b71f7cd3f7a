// Intrinsics whose semantics are easy to get wrong, one function each, for test_emulation.py: operands of 64 bytes.
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define EXPRESSION(name, type, value)                                              \
  extern "C" void name(const void* a_, const void* b_, const void* c_, void* out) { \
    [[maybe_unused]] const __m512i a = _mm512_loadu_si512(a_);                      \
    [[maybe_unused]] const __m512i b = _mm512_loadu_si512(b_);                      \
    [[maybe_unused]] const __m512i c = _mm512_loadu_si512(c_);                      \
    [[maybe_unused]] const __m512 x = _mm512_loadu_ps(a_), y = _mm512_loadu_ps(b_); \
    const type result = value;                                                     \
    memcpy(out, &result, sizeof result);                                           \
  }

EXPRESSION(packus_epi32, __m512i, _mm512_packus_epi32(a, b))
EXPRESSION(packus_epi16, __m512i, _mm512_packus_epi16(a, b))
EXPRESSION(permutexvar_epi32, __m512i, _mm512_permutexvar_epi32(a, b))
EXPRESSION(permutex2var_epi32, __m512i, _mm512_permutex2var_epi32(a, b, c))
EXPRESSION(unpacklo_epi32, __m512i, _mm512_unpacklo_epi32(a, b))
EXPRESSION(unpackhi_epi32, __m512i, _mm512_unpackhi_epi32(a, b))
EXPRESSION(unpacklo_epi64, __m512i, _mm512_unpacklo_epi64(a, b))
EXPRESSION(unpackhi_epi64, __m512i, _mm512_unpackhi_epi64(a, b))
EXPRESSION(shuffle_i32x4, __m512i, _mm512_shuffle_i32x4(a, b, 0x63))
EXPRESSION(ternary_sum, __m512i, _mm512_ternarylogic_epi64(a, b, c, 0x96))
EXPRESSION(ternary_carry, __m512i, _mm512_ternarylogic_epi64(a, b, c, 0xD4))
EXPRESSION(popcnt_epi64, __m512i, _mm512_popcnt_epi64(a))
EXPRESSION(testn_epi8, __mmask64, _mm512_mask_testn_epi8_mask(0xfffffffffffffff0u, a, b))
EXPRESSION(slli_epi32, __m512i, _mm512_slli_epi32(a, 24))
EXPRESSION(cvtps_epi32, __m512i, _mm512_cvtps_epi32(x))
EXPRESSION(max_ps, __m512, _mm512_max_ps(x, y))
EXPRESSION(min_ps, __m512, _mm512_min_ps(x, y))
EXPRESSION(cmp_ge, __mmask16, _mm512_cmp_ps_mask(x, y, _CMP_GE_OQ))
EXPRESSION(fmadd_ps, __m512, _mm512_fmadd_ps(x, y, _mm512_loadu_ps(c_)))
EXPRESSION(cvtepi64_ps, __m256, _mm512_cvtepi64_ps(a))
EXPRESSION(cvtepi32_ps, __m512, _mm512_cvtepi32_ps(a))
EXPRESSION(halves, __m512, _mm512_insertf32x8(_mm512_broadcast_f32x8(_mm512_extractf32x8_ps(x, 1)),
                                              _mm512_castps512_ps256(y), 1))
EXPRESSION(mask_or_epi32, __m512i, _mm512_mask_or_epi32(a, 0x5a01, b, c))

extern "C" void load_16(const void* a, uint16_t mask, void* out) {
  const __m512 v = _mm512_maskz_loadu_ps(mask, a);
  memcpy(out, &v, sizeof v);
}
extern "C" void load_8(const void* a, uint8_t mask, void* out) {
  const __m256 v = _mm256_maskz_loadu_ps(mask, a);
  memcpy(out, &v, sizeof v);
}
extern "C" void store_16(const void* a, uint16_t mask, void* out) { _mm512_mask_storeu_ps(out, mask, _mm512_loadu_ps(a)); }
extern "C" void store_8(const void* a, uint8_t mask, void* out) {
  _mm256_mask_storeu_ps(out, mask, _mm512_castps512_ps256(_mm512_loadu_ps(a)));
}

// Five rows of 24 bytes by six rows of seven dwords, added to what is there; rows 64 bytes apart.
extern "C" void tile_product(const void* config, const void* a, const void* b, void* sums) {
  __asm__ __volatile__("" ::: "memory");
  _tile_loadconfig(config);
  _tile_loadd(0, sums, 64);
  _tile_loadd(1, a, 64);
  _tile_loadd(2, b, 64);
  _tile_dpbssd(0, 1, 2);
  _tile_stored(0, sums, 64);
  _tile_release();
}
