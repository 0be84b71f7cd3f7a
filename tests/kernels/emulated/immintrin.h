#pragma once
// The AVX-512 intrinsics that csrc/cpu uses, written as plain loops over 64-byte vectors: `-I` of this folder compiles
// the unchanged kernels on a machine of any kind, for their results, not for their speed. Found first, it stands in
// place of the compiler's header; a new intrinsic in a kernel fails to compile here until it is added.
//
// Lane 0 is the lowest bits. A masked load or store touches the bytes of its mask and no others, as the instruction
// does, so that a guard page or a sanitizer sees what the real kernel would have touched.
#include <stdint.h>
#include <string.h>

#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512DQ__ 1
#define __AVX512VL__ 1
#define __AVX512VPOPCNTDQ__ 1
#define ABCFX_EMULATED 1  // no register class holds these vectors: an asm statement cannot name one

#pragma GCC diagnostic ignored "-Wpsabi"  // all is in one file: how a vector is passed does not matter

typedef long long __m512i __attribute__((vector_size(64), may_alias));
typedef float __m512 __attribute__((vector_size(64), may_alias));
typedef long long __m256i __attribute__((vector_size(32), may_alias));
typedef float __m256 __attribute__((vector_size(32), may_alias));
typedef long long __m128i __attribute__((vector_size(16), may_alias));
typedef uint8_t __mmask8;
typedef uint16_t __mmask16;
typedef uint32_t __mmask32;
typedef uint64_t __mmask64;

namespace emulated {

typedef uint64_t u64x8 __attribute__((vector_size(64), may_alias));
typedef int64_t i64x8 __attribute__((vector_size(64), may_alias));
typedef int32_t i32x16 __attribute__((vector_size(64), may_alias));
typedef uint32_t u32x16 __attribute__((vector_size(64), may_alias));
typedef int16_t i16x32 __attribute__((vector_size(64), may_alias));
typedef uint16_t u16x32 __attribute__((vector_size(64), may_alias));
typedef int8_t i8x64 __attribute__((vector_size(64), may_alias));
typedef uint8_t u8x64 __attribute__((vector_size(64), may_alias));
typedef int16_t i16x16 __attribute__((vector_size(32), may_alias));
typedef uint16_t u16x16 __attribute__((vector_size(32), may_alias));
typedef int32_t i32x8 __attribute__((vector_size(32), may_alias));
typedef uint8_t u8x32 __attribute__((vector_size(32), may_alias));

template <class Vector>
inline Vector load(const void* source) {
  Vector v;
  memcpy(&v, source, sizeof v);
  return v;
}

template <class Vector, class Mask>
inline Vector load_masked(Mask mask, const float* source) {
  Vector v = {};
  for (unsigned i = 0; i < sizeof(Vector) / sizeof(float); ++i) {
    if (mask >> i & 1) memcpy((char*)&v + 4 * i, (const char*)source + 4 * i, 4);
  }
  return v;
}

template <class Vector, class Mask>
inline void store_masked(void* target, Mask mask, Vector v) {
  for (unsigned i = 0; i < sizeof(Vector) / sizeof(float); ++i) {
    if (mask >> i & 1) memcpy((char*)target + 4 * i, (const char*)&v + 4 * i, 4);
  }
}

/// a * b + c, rounded once.
template <class Vector>
inline Vector fused(Vector a, Vector b, Vector c) {
  Vector v;
  for (unsigned i = 0; i < sizeof(Vector) / sizeof(float); ++i) v[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return v;
}

/// Each 128-bit lane of the result: that lane of a narrowed, then that of b; signed values saturate to unsigned ones.
template <class Narrow, class Wide>
inline Narrow pack_unsigned(Wide a, Wide b, int limit) {
  Narrow v;
  constexpr int each = 16 / sizeof(a[0]);
  for (int lane = 0; lane < 4; ++lane) {
    for (int i = 0; i < 2 * each; ++i) {
      const int x = i < each ? a[lane * each + i] : b[lane * each + i - each];
      v[2 * lane * each + i] = x < 0 ? 0 : x > limit ? limit : x;
    }
  }
  return v;
}

/// Words of the mask, zeros elsewhere.
template <class Vector, class Mask>
inline Vector load_words(Mask mask, const void* source) {
  Vector v = {};
  for (unsigned i = 0; i < sizeof(Vector) / 2; ++i) {
    if (mask >> i & 1) memcpy((char*)&v + 2 * i, (const char*)source + 2 * i, 2);
  }
  return v;
}

/// Bytes of the same 128-bit lane of `table`, by the low four bits of an index; zero where its bit 7 is set.
template <class Bytes>
inline Bytes shuffle(Bytes table, Bytes index) {
  Bytes v;
  for (unsigned i = 0; i < sizeof(Bytes); ++i) v[i] = index[i] & 128 ? 0 : table[i / 16 * 16 + index[i] % 16];
  return v;
}

/// Each 128-bit lane of the result: elements of that lane of a and b in turn, from its lower or its upper half.
template <class Vector>
inline Vector interleave(Vector a, Vector b, bool upper) {
  Vector v;
  constexpr int each = 16 / sizeof(a[0]), count = sizeof(Vector) / sizeof(a[0]);
  for (int i = 0; i < count; ++i) {
    const int from = i / each * each + i % each / 2 + (upper ? each / 2 : 0);
    v[i] = i % 2 ? b[from] : a[from];
  }
  return v;
}

}  // namespace emulated

// Out of line: the kernels unroll their loops by hand, and would take a minute to compile with these bodies inside.
#define EMULATED static __attribute__((noinline, unused))

// 512-bit integers
EMULATED __m512i _mm512_setzero_si512() { return __m512i{}; }
EMULATED __m512i _mm512_set1_epi64(long long x) { return (__m512i){x, x, x, x, x, x, x, x}; }
EMULATED __m512i _mm512_set1_epi32(int x) { return (__m512i)(emulated::i32x16{} + x); }
EMULATED __m512i _mm512_set1_epi8(char x) { return (__m512i)(emulated::i8x64{} + (int8_t)x); }
EMULATED __m512i _mm512_setr_epi32(int a, int b, int c, int d, int e, int f, int g, int h, int i, int j, int k, int l,
                                   int m, int n, int o, int p) {
  return (__m512i)(emulated::i32x16){a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p};
}
EMULATED __m512i _mm512_loadu_si512(const void* source) { return emulated::load<__m512i>(source); }
EMULATED __m512i _mm512_xor_si512(__m512i a, __m512i b) { return a ^ b; }
EMULATED __m512i _mm512_xor_epi64(__m512i a, __m512i b) { return a ^ b; }
EMULATED __m512i _mm512_or_si512(__m512i a, __m512i b) { return a | b; }
EMULATED __m512i _mm512_add_epi64(__m512i a, __m512i b) {
  return (__m512i)((emulated::u64x8)a + (emulated::u64x8)b);
}
EMULATED __m512i _mm512_slli_epi32(__m512i a, unsigned count) {
  return count > 31 ? __m512i{} : (__m512i)((emulated::u32x16)a << count);
}
EMULATED __m512i _mm512_mask_or_epi32(__m512i source, __mmask16 mask, __m512i a, __m512i b) {
  emulated::i32x16 v = (emulated::i32x16)source;
  const emulated::i32x16 either = (emulated::i32x16)(a | b);
  for (int i = 0; i < 16; ++i) v[i] = mask >> i & 1 ? either[i] : v[i];
  return (__m512i)v;
}
EMULATED __m512i _mm512_popcnt_epi64(__m512i a) {
  emulated::u64x8 v = (emulated::u64x8)a;
  v -= v >> 1 & 0x5555555555555555u;
  v = (v & 0x3333333333333333u) + (v >> 2 & 0x3333333333333333u);
  v = (v + (v >> 4)) & 0x0f0f0f0f0f0f0f0fu;
  return (__m512i)(v * 0x0101010101010101u >> 56);
}
/// Bit (a << 2 | b << 1 | c) of `table`, for every bit position.
EMULATED __m512i _mm512_ternarylogic_epi64(__m512i a, __m512i b, __m512i c, int table) {
  __m512i v = {};
  for (int i = 0; i < 8; ++i) {
    if (table >> i & 1) v |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  }
  return v;
}
EMULATED __mmask64 _mm512_mask_testn_epi8_mask(__mmask64 mask, __m512i a, __m512i b) {
  const emulated::u8x64 both = (emulated::u8x64)(a & b);
  __mmask64 zero = 0;
  for (int i = 0; i < 64; ++i) zero |= (__mmask64)(both[i] == 0) << i;
  return zero & mask;
}
EMULATED __m512i _mm512_packus_epi32(__m512i a, __m512i b) {
  return (__m512i)emulated::pack_unsigned<emulated::u16x32>((emulated::i32x16)a, (emulated::i32x16)b, 65535);
}
EMULATED __m512i _mm512_packus_epi16(__m512i a, __m512i b) {
  return (__m512i)emulated::pack_unsigned<emulated::u8x64>((emulated::i16x32)a, (emulated::i16x32)b, 255);
}
EMULATED __m512i _mm512_unpacklo_epi32(__m512i a, __m512i b) {
  return (__m512i)emulated::interleave((emulated::i32x16)a, (emulated::i32x16)b, false);
}
EMULATED __m512i _mm512_unpackhi_epi32(__m512i a, __m512i b) {
  return (__m512i)emulated::interleave((emulated::i32x16)a, (emulated::i32x16)b, true);
}
EMULATED __m512i _mm512_unpacklo_epi64(__m512i a, __m512i b) { return emulated::interleave(a, b, false); }
EMULATED __m512i _mm512_unpackhi_epi64(__m512i a, __m512i b) { return emulated::interleave(a, b, true); }
EMULATED __m512i _mm512_permutexvar_epi32(__m512i index, __m512i a) {
  const emulated::i32x16 at = (emulated::i32x16)index, from = (emulated::i32x16)a;
  emulated::i32x16 v;
  for (int i = 0; i < 16; ++i) v[i] = from[at[i] & 15];
  return (__m512i)v;
}
/// Bit 4 of an index takes from b, bits 0 to 3 say which dword; the higher bits do not count.
EMULATED __m512i _mm512_permutex2var_epi32(__m512i a, __m512i index, __m512i b) {
  const emulated::i32x16 at = (emulated::i32x16)index, first = (emulated::i32x16)a, second = (emulated::i32x16)b;
  emulated::i32x16 v;
  for (int i = 0; i < 16; ++i) v[i] = at[i] & 16 ? second[at[i] & 15] : first[at[i] & 15];
  return (__m512i)v;
}
/// 128-bit lanes: two of a, then two of b, each named by two bits of `lanes`.
EMULATED __m512i _mm512_shuffle_i32x4(__m512i a, __m512i b, int lanes) {
  __m512i v;
  for (int i = 0; i < 8; ++i) {
    const int from = (lanes >> (i / 2 * 2) & 3) * 2 + i % 2;
    v[i] = i < 4 ? a[from] : b[from];
  }
  return v;
}

// 512-bit floats
EMULATED __m512 _mm512_setzero_ps() { return __m512{}; }
EMULATED __m512 _mm512_set1_ps(float x) { return __m512{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
EMULATED __m512 _mm512_loadu_ps(const void* source) { return emulated::load<__m512>(source); }
EMULATED __m512 _mm512_maskz_loadu_ps(__mmask16 mask, const void* source) {
  return emulated::load_masked<__m512>(mask, (const float*)source);
}
EMULATED void _mm512_mask_storeu_ps(void* target, __mmask16 mask, __m512 a) { emulated::store_masked(target, mask, a); }
EMULATED __m512 _mm512_sub_ps(__m512 a, __m512 b) { return a - b; }
EMULATED __m512 _mm512_mul_ps(__m512 a, __m512 b) { return a * b; }
EMULATED __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) { return emulated::fused(a, b, c); }
/// The second operand where either is a NaN, and where both are zeros.
EMULATED __m512 _mm512_max_ps(__m512 a, __m512 b) { return a > b ? a : b; }
EMULATED __m512 _mm512_min_ps(__m512 a, __m512 b) { return a < b ? a : b; }
EMULATED __m512 _mm512_castps256_ps512(__m256 a) {
  return __m512{a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]};
}
EMULATED __m512 _mm512_insertf32x8(__m512 a, __m256 b, int upper) {
  for (int i = 0; i < 8; ++i) a[8 * (upper & 1) + i] = b[i];
  return a;
}
EMULATED __m512 _mm512_broadcast_f32x8(__m256 a) { return _mm512_insertf32x8(_mm512_castps256_ps512(a), a, 1); }
EMULATED __m512 _mm512_cvtepi32_ps(__m512i a) { return __builtin_convertvector((emulated::i32x16)a, __m512); }
/// Rounds half to even; a NaN and what does not fit become the most negative integer.
EMULATED __m512i _mm512_cvtps_epi32(__m512 a) {
  emulated::i32x16 v;
  for (int i = 0; i < 16; ++i) {
    const float x = __builtin_rintf(a[i]);
    v[i] = x >= -2147483648.0f && x < 2147483648.0f ? (int32_t)x : INT32_MIN;
  }
  return (__m512i)v;
}

enum { _CMP_GE_OQ = 0x1d };  ///< greater or equal, false for a NaN
EMULATED __mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int predicate) {
  if (predicate != _CMP_GE_OQ) __builtin_trap();  // the only one in use
  __mmask16 mask = 0;
  for (int i = 0; i < 16; ++i) mask |= (__mmask16)(a[i] >= b[i]) << i;
  return mask;
}

// 256-bit floats
EMULATED __m256 _mm256_set1_ps(float x) { return __m256{x, x, x, x, x, x, x, x}; }
EMULATED __m256 _mm256_setzero_ps() { return __m256{}; }
EMULATED __m256 _mm256_maskz_loadu_ps(__mmask8 mask, const void* source) {
  return emulated::load_masked<__m256>(mask, (const float*)source);
}
EMULATED void _mm256_mask_storeu_ps(void* target, __mmask8 mask, __m256 a) { emulated::store_masked(target, mask, a); }
EMULATED __m256 _mm256_fmadd_ps(__m256 a, __m256 b, __m256 c) { return emulated::fused(a, b, c); }
EMULATED __m256 _mm512_castps512_ps256(__m512 a) {
  return __m256{a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]};
}
EMULATED __m256 _mm512_extractf32x8_ps(__m512 a, int upper) {
  __m256 v;
  for (int i = 0; i < 8; ++i) v[i] = a[8 * (upper & 1) + i];
  return v;
}
EMULATED __m256 _mm512_cvtepi64_ps(__m512i a) { return __builtin_convertvector(a, __m256); }

// Bytes and words of 512 bits, for pack and lut
EMULATED __m512i _mm512_set1_epi16(short x) { return (__m512i)(emulated::i16x32{} + (int16_t)x); }
EMULATED void _mm512_storeu_si512(void* target, __m512i a) { memcpy(target, &a, sizeof a); }
EMULATED __m512i _mm512_and_si512(__m512i a, __m512i b) { return a & b; }
EMULATED __m512i _mm512_add_epi8(__m512i a, __m512i b) { return (__m512i)((emulated::u8x64)a + (emulated::u8x64)b); }
EMULATED __m512i _mm512_add_epi16(__m512i a, __m512i b) {
  return (__m512i)((emulated::u16x32)a + (emulated::u16x32)b);
}
EMULATED __m512i _mm512_sub_epi16(__m512i a, __m512i b) {
  return (__m512i)((emulated::u16x32)a - (emulated::u16x32)b);
}
EMULATED __m512i _mm512_slli_epi16(__m512i a, unsigned count) {
  return count > 15 ? __m512i{} : (__m512i)((emulated::u16x32)a << (uint16_t)count);
}
EMULATED __m512i _mm512_srli_epi16(__m512i a, unsigned count) {
  return count > 15 ? __m512i{} : (__m512i)((emulated::u16x32)a >> (uint16_t)count);
}
EMULATED __m512i _mm512_srli_epi32(__m512i a, unsigned count) {
  return count > 31 ? __m512i{} : (__m512i)((emulated::u32x16)a >> count);
}
EMULATED __m512i _mm512_load_si512(const void* source) { return _mm512_loadu_si512(source); }
EMULATED void _mm512_store_si512(void* target, __m512i a) { _mm512_storeu_si512(target, a); }
EMULATED void _mm512_mask_storeu_epi8(void* target, __mmask64 mask, __m512i a) {
  for (int i = 0; i < 64; ++i) {
    if (mask >> i & 1) memcpy((char*)target + i, (const char*)&a + i, 1);
  }
}
EMULATED __m512i _mm512_mask_sub_epi8(__m512i source, __mmask64 mask, __m512i a, __m512i b) {
  emulated::u8x64 v = (emulated::u8x64)source;
  const emulated::u8x64 difference = (emulated::u8x64)a - (emulated::u8x64)b;
  for (int i = 0; i < 64; ++i) v[i] = mask >> i & 1 ? difference[i] : v[i];
  return (__m512i)v;
}
EMULATED __m512i _mm512_shuffle_epi8(__m512i table, __m512i index) {
  return (__m512i)emulated::shuffle((emulated::u8x64)table, (emulated::u8x64)index);
}
/// As pack_unsigned, saturating to the signed range.
EMULATED __m512i _mm512_packs_epi32(__m512i a, __m512i b) {
  emulated::i16x32 v;
  for (int i = 0; i < 32; ++i) {
    const int x = ((emulated::i32x16)(i & 4 ? b : a))[i / 8 * 4 + i % 4];
    v[i] = (int16_t)(x < -32768 ? -32768 : x > 32767 ? 32767 : x);
  }
  return (__m512i)v;
}
EMULATED __m512i _mm512_unpacklo_epi8(__m512i a, __m512i b) {
  return (__m512i)emulated::interleave((emulated::u8x64)a, (emulated::u8x64)b, false);
}
EMULATED __m512i _mm512_unpackhi_epi8(__m512i a, __m512i b) {
  return (__m512i)emulated::interleave((emulated::u8x64)a, (emulated::u8x64)b, true);
}
EMULATED __m512i _mm512_unpacklo_epi16(__m512i a, __m512i b) {
  return (__m512i)emulated::interleave((emulated::u16x32)a, (emulated::u16x32)b, false);
}
EMULATED __m512i _mm512_unpackhi_epi16(__m512i a, __m512i b) {
  return (__m512i)emulated::interleave((emulated::u16x32)a, (emulated::u16x32)b, true);
}
EMULATED __m512i _mm512_maskz_loadu_epi16(__mmask32 mask, const void* source) {
  return emulated::load_words<__m512i>(mask, source);
}
EMULATED __m512i _mm512_maskz_mov_epi8(__mmask64 mask, __m512i a) {
  emulated::u8x64 v = (emulated::u8x64)a;
  for (int i = 0; i < 64; ++i) v[i] = mask >> i & 1 ? v[i] : 0;
  return (__m512i)v;
}
/// b where the mask is set, else a.
EMULATED __m512i _mm512_mask_blend_epi16(__mmask32 mask, __m512i a, __m512i b) {
  emulated::u16x32 v = (emulated::u16x32)a;
  for (int i = 0; i < 32; ++i) v[i] = mask >> i & 1 ? ((emulated::u16x32)b)[i] : v[i];
  return (__m512i)v;
}
EMULATED __m512i _mm512_mask_sub_epi16(__m512i source, __mmask32 mask, __m512i a, __m512i b) {
  return _mm512_mask_blend_epi16(mask, source, _mm512_sub_epi16(a, b));
}
EMULATED __mmask32 _mm512_cmpgt_epi16_mask(__m512i a, __m512i b) {
  __mmask32 mask = 0;
  for (int i = 0; i < 32; ++i) mask |= (__mmask32)(((emulated::i16x32)a)[i] > ((emulated::i16x32)b)[i]) << i;
  return mask;
}
EMULATED __mmask32 _mm512_movepi16_mask(__m512i a) { return _mm512_cmpgt_epi16_mask(__m512i{}, a); }
EMULATED __mmask64 _mm512_test_epi8_mask(__m512i a, __m512i b) {
  return ~_mm512_mask_testn_epi8_mask(~(__mmask64)0, a, b);
}
EMULATED __m512i _mm512_castsi256_si512(__m256i a) { return __m512i{a[0], a[1], a[2], a[3]}; }
EMULATED __m512i _mm512_inserti64x4(__m512i a, __m256i b, int upper) {
  for (int i = 0; i < 4; ++i) a[4 * (upper & 1) + i] = b[i];
  return a;
}
EMULATED __m256i _mm512_extracti64x4_epi64(__m512i a, int upper) {
  __m256i v;
  for (int i = 0; i < 4; ++i) v[i] = a[4 * (upper & 1) + i];
  return v;
}
EMULATED __m256i _mm512_castsi512_si256(__m512i a) { return _mm512_extracti64x4_epi64(a, 0); }
EMULATED __m512i _mm512_broadcast_i32x4(__m128i a) { return __m512i{a[0], a[1], a[0], a[1], a[0], a[1], a[0], a[1]}; }
EMULATED __m512i _mm512_cvtepi16_epi32(__m256i a) {
  return (__m512i)__builtin_convertvector((emulated::i16x16)a, emulated::i32x16);
}
EMULATED __m512i _mm512_cvtepu16_epi32(__m256i a) {
  return (__m512i)__builtin_convertvector((emulated::u16x16)a, emulated::i32x16);
}
EMULATED __m512 _mm512_castsi512_ps(__m512i a) { return (__m512)a; }
EMULATED __m512 _mm512_add_ps(__m512 a, __m512 b) { return a + b; }
EMULATED void _mm512_storeu_ps(void* target, __m512 a) { memcpy(target, &a, sizeof a); }
/// Exact; a NaN keeps its sign and its upper bits, and becomes quiet.
EMULATED __m512 _mm512_cvtph_ps(__m256i a) {
  emulated::u32x16 v;
  for (int i = 0; i < 16; ++i) {
    const uint32_t half = ((emulated::u16x16)a)[i], exponent = half >> 10 & 31, digits = half & 1023;
    const float small = (float)digits / 16777216.0f;  // subnormal: digits * 2^-24
    uint32_t bits;
    memcpy(&bits, &small, sizeof bits);
    if (exponent == 31) bits = 0x7f800000u | digits << 13 | (digits ? 0x400000u : 0);
    else if (exponent) bits = (exponent + 112) << 23 | digits << 13;
    v[i] = bits | (half >> 15) << 31;
  }
  return (__m512)v;
}

// 128 and 256-bit integers: lut's tables
EMULATED __m128i _mm_loadu_si128(const __m128i* source) { return emulated::load<__m128i>(source); }
EMULATED __m256i _mm256_load_si256(const __m256i* source) { return emulated::load<__m256i>(source); }
EMULATED __m256i _mm256_loadu_si256(const __m256i* source) { return emulated::load<__m256i>(source); }
EMULATED void _mm256_storeu_si256(__m256i* target, __m256i a) { memcpy(target, &a, sizeof a); }
EMULATED __m256i _mm256_maskz_loadu_epi16(__mmask16 mask, const void* source) {
  return emulated::load_words<__m256i>(mask, source);
}
EMULATED __m256i _mm256_setzero_si256() { return __m256i{}; }
EMULATED __m256i _mm256_set1_epi64x(long long x) { return __m256i{x, x, x, x}; }
EMULATED __m256i _mm256_set1_epi32(int x) { return (__m256i)(emulated::i32x8{} + x); }
EMULATED __m256i _mm256_set1_epi16(short x) { return (__m256i)(emulated::i16x16{} + (int16_t)x); }
EMULATED __m256i _mm256_set1_epi8(char x) { return (__m256i)(emulated::u8x32{} + (uint8_t)x); }
template <class... Bytes>
EMULATED __m256i _mm256_setr_epi8(Bytes... bytes) {
  static_assert(sizeof...(bytes) == 32);
  return (__m256i)emulated::u8x32{(uint8_t)bytes...};
}
EMULATED __m256i _mm256_and_si256(__m256i a, __m256i b) { return a & b; }
EMULATED __m256i _mm256_or_si256(__m256i a, __m256i b) { return a | b; }
EMULATED __m256i _mm256_xor_si256(__m256i a, __m256i b) { return a ^ b; }
EMULATED __m256i _mm256_andnot_si256(__m256i a, __m256i b) { return ~a & b; }
EMULATED __m256i _mm256_add_epi8(__m256i a, __m256i b) { return (__m256i)((emulated::u8x32)a + (emulated::u8x32)b); }
EMULATED __m256i _mm256_cmpeq_epi8(__m256i a, __m256i b) { return (__m256i)((emulated::u8x32)a == (emulated::u8x32)b); }
EMULATED __m256i _mm256_shuffle_epi8(__m256i table, __m256i index) {
  return (__m256i)emulated::shuffle((emulated::u8x32)table, (emulated::u8x32)index);
}
EMULATED __m256i _mm256_unpacklo_epi16(__m256i a, __m256i b) {
  return (__m256i)emulated::interleave((emulated::u16x16)a, (emulated::u16x16)b, false);
}
EMULATED __m256i _mm256_unpackhi_epi16(__m256i a, __m256i b) {
  return (__m256i)emulated::interleave((emulated::u16x16)a, (emulated::u16x16)b, true);
}
/// Each half: bits 0 and 1 of its nibble of `halves` name one of a's two, then b's; bit 3 makes it zero.
EMULATED __m256i _mm256_permute2x128_si256(__m256i a, __m256i b, int halves) {
  __m256i v = {};
  for (int i = 0; i < 4; ++i) {
    const int from = halves >> (i / 2 * 4);
    if (!(from & 8)) v[i] = (from & 2 ? b : a)[from % 2 * 2 + i % 2];
  }
  return v;
}

// AMX: eight registers of sixteen rows of 64 bytes, of which the configuration says how much counts
namespace emulated {

struct Tiles {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
  int8_t bytes[8][16][64];
};

static thread_local Tiles tiles;

}  // namespace emulated

EMULATED void _tile_loadconfig(const void* config) { memcpy(&emulated::tiles, config, 64); }
EMULATED void _tile_release() { memset(&emulated::tiles, 0, sizeof emulated::tiles); }
EMULATED void _tile_zero(int tile) { memset(emulated::tiles.bytes[tile], 0, sizeof emulated::tiles.bytes[tile]); }
EMULATED void _tile_loadd(int tile, const void* source, int64_t stride) {
  _tile_zero(tile);
  for (int r = 0; r < emulated::tiles.rows[tile]; ++r) {
    memcpy(emulated::tiles.bytes[tile][r], (const char*)source + r * stride, emulated::tiles.row_bytes[tile]);
  }
}
EMULATED void _tile_stored(int tile, void* target, int64_t stride) {
  for (int r = 0; r < emulated::tiles.rows[tile]; ++r) {
    memcpy((char*)target + r * stride, emulated::tiles.bytes[tile][r], emulated::tiles.row_bytes[tile]);
  }
}
/// sums[m][n] += sum over k and i < 4 of a[m][4 k + i] * b[k][4 n + i], signed bytes into 32 bits.
EMULATED void _tile_dpbssd(int sums, int a, int b) {
  emulated::Tiles& t = emulated::tiles;
  for (int m = 0; m < t.rows[sums]; ++m) {
    for (int n = 0; n < t.row_bytes[sums] / 4; ++n) {
      int32_t sum;
      memcpy(&sum, &t.bytes[sums][m][4 * n], 4);
      for (int k = 0; k < t.row_bytes[a]; ++k) sum += t.bytes[a][m][k] * t.bytes[b][k / 4][4 * n + k % 4];
      memcpy(&t.bytes[sums][m][4 * n], &sum, 4);
    }
  }
}

#undef EMULATED
