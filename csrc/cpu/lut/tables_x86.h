#pragma once
#include <immintrin.h>

#include "plan.h"

// The lookup tables of a strip, made from the bit image with AVX2. Static, for the reason given in bgemm/window.h.

/// Byte patterns of the last step: entry e of a group's table is low[e & 3] + high[e >> 2], where `low` and `high` are
/// the four sums of its two pairs of channels, side by side in a register that holds two groups a lane.
struct TablePatterns {
  __m256i low[2], high[2];

  TablePatterns() {
    alignas(32) uint8_t bytes[4][32];
    for (int group = 0; group < 2; ++group) {
      for (int e = 0; e < 32; ++e) {
        bytes[group][e] = (uint8_t)(8 * group + (e & 3));
        bytes[2 + group][e] = (uint8_t)(8 * group + 4 + (e % 16 >> 2));
      }
      low[group] = _mm256_load_si256((const __m256i*)bytes[group]);
      high[group] = _mm256_load_si256((const __m256i*)bytes[2 + group]);
    }
  }
};

/// The codes of up to 32 channels from pair `pair` on, which lie in one word of every plane: bit q of a code is the
/// complement of plane q's bit.
template <int PLANES>
static inline __m256i codes_of(const uint64_t* plane, int64_t pair, int64_t plane_step) {
  const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1,
                                          2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
  const __m256i place = _mm256_set1_epi64x((int64_t)0x8040201008040201u);
  __m256i codes = _mm256_setzero_si256();
  UNROLL for (int q = 0; q < PLANES; ++q) {
    const int word = (int)(uint32_t)(plane[q * plane_step + pair / 8] >> (pair % 8 * 8));
    const __m256i bits = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(word), spread), place);
    const __m256i clear = _mm256_cmpeq_epi8(bits, _mm256_setzero_si256());
    codes = _mm256_or_si256(codes, _mm256_and_si256(clear, _mm256_set1_epi8((char)(1 << q))));
  }
  return codes;
}

/// dst = tables of `pairs` <= 4 groups of eight channels. First the four sums of every pair of channels (k0, k1),
///   k0 + k1,   (L - k0) + k1,   k0 + (L - k1),   (L - k0) + (L - k1),      L - k = k ^ L,
/// as the bytes of a dword; then sixteen entries out of two dwords.
static inline void store_tables(const TablePatterns& patterns, __m256i codes, __m256i top, int64_t pairs, uint8_t* dst) {
  const __m256i evens = _mm256_set1_epi16(0x00ff), first = _mm256_setr_epi8(
      0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14, 0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14);
  const __m256i second = _mm256_add_epi8(first, _mm256_set1_epi8(1));
  const __m256i one = _mm256_xor_si256(_mm256_shuffle_epi8(codes, first), _mm256_andnot_si256(evens, top));
  const __m256i two = _mm256_shuffle_epi8(codes, second);
  const __m256i plus = _mm256_add_epi8(one, two), minus = _mm256_add_epi8(one, _mm256_xor_si256(two, top));
  const __m256i sums[2] = {_mm256_unpacklo_epi16(plus, minus), _mm256_unpackhi_epi16(plus, minus)};
  __m256i pair[4];
  for (int half = 0; half < 2; ++half) {
    __m256i table[2];
    for (int group = 0; group < 2; ++group) {
      table[group] = _mm256_add_epi8(_mm256_shuffle_epi8(sums[half], patterns.low[group]),
                                     _mm256_shuffle_epi8(sums[half], patterns.high[group]));
    }
    pair[half] = _mm256_permute2x128_si256(table[0], table[1], 0x20);
    pair[half + 2] = _mm256_permute2x128_si256(table[0], table[1], 0x31);
  }
  if (pairs >= 4) {
    UNROLL for (int i = 0; i < 4; ++i) _mm256_storeu_si256((__m256i*)(dst + i * PAIR_BYTES), pair[i]);
  } else {
    for (int i = 0; i < pairs; ++i) _mm256_storeu_si256((__m256i*)(dst + i * PAIR_BYTES), pair[i]);
  }
}

/// Tables of every pixel of the strip's region, channels [8 first, 8 (first + pairs)) of convolution group `group`:
/// dst[region line][region column][pairs][32].
template <int PLANES>
static void make_tables_of(const abcfx_lut_args& args, const Shape& shape, const Strip& strip, const Digit& digit,
                           int64_t group, int64_t first, int64_t pairs, uint8_t* dst) {
  const abcfx_bgemm_args& product = args.product;
  const TablePatterns patterns;
  const __m256i top = _mm256_set1_epi8((char)digit.top);
  const int64_t pixel = product.groups * product.words, plane_step = product.padded_w * pixel;
  const int64_t apart_h = product.kernel_h == 1 ? product.stride_h : 1;
  const int64_t apart_w = product.kernel_w == 1 ? product.stride_w : 1;
  const int64_t height = region_h(shape, strip.lines), width = region_w(shape, strip.width);
  for (int64_t y = 0; y < height; ++y) {
    const int64_t line = strip.n * product.padded_h + strip.y * product.stride_h + y * apart_h;
    const uint64_t* plane = product.a + (line * product.activation_bases + digit.first) * plane_step +
                            strip.x * product.stride_w * pixel + group * product.words;
    for (int64_t x = 0; x < width; ++x, plane += apart_w * pixel, dst += pairs * PAIR_BYTES) {
      for (int64_t i = 0; i < pairs; i += 4) {
        store_tables(patterns, codes_of<PLANES>(plane, first + i, plane_step), top, pairs - i, dst + i * PAIR_BYTES);
      }
    }
  }
}

static void make_tables(const abcfx_lut_args& args, const Shape& shape, const Strip& strip, const Digit& digit,
                        int64_t group, int64_t first, int64_t pairs, uint8_t* dst) {
  static constexpr decltype(&make_tables_of<1>) list[MAX_DIGIT] = {make_tables_of<1>, make_tables_of<2>,
                                                                   make_tables_of<3>, make_tables_of<4>,
                                                                   make_tables_of<5>};
  list[digit.planes - 1](args, shape, strip, digit, group, first, pairs, dst);
}
