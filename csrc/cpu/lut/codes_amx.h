#pragma once
#include <immintrin.h>

#include "tiles.h"

// The operands of the tile product as signed bytes, made from bits. Static, for the reason given in bgemm/window.h.

constexpr int AMX_DIGIT = 7;  ///< codes of seven planes, -127 to 127, are signed bytes

/// Codes c = 2 k - L of every pixel of the strip's region: dst[region line][region column][8 * pairs] int8.
///
/// A set bit of plane q takes 2^(q + 1) from L. Channels past the last are 0 and so drop out of every sum. Padded pixels
/// have bits 0, hence the code L, as for the other kernels.
template <int PLANES>
static void make_codes_of(const abcfx_lut_args& args, const Shape& shape, const Strip& strip, const Digit& digit,
                          int64_t group, int64_t first, int64_t pairs, int8_t* dst) {
  const abcfx_bgemm_args& product = args.product;
  const int64_t pixel = product.groups * product.words, plane_step = product.padded_w * pixel;
  const int64_t apart_h = product.kernel_h == 1 ? product.stride_h : 1;
  const int64_t apart_w = product.kernel_w == 1 ? product.stride_w : 1;
  const int64_t height = region_h(shape, strip.lines), width = region_w(shape, strip.width);
  const int64_t bytes = 8 * pairs, real = args.channels - 8 * first;
  const __m512i top = _mm512_set1_epi8((char)digit.top);
  for (int64_t y = 0; y < height; ++y) {
    const int64_t line = strip.n * product.padded_h + strip.y * product.stride_h + y * apart_h;
    const uint64_t* plane = product.a + (line * product.activation_bases + digit.first) * plane_step +
                            strip.x * product.stride_w * pixel + group * product.words + first / 8;
    for (int64_t x = 0; x < width; ++x, plane += apart_w * pixel, dst += bytes) {
      for (int64_t i = 0; i < bytes; i += STEP) {
        __m512i codes = top;
        UNROLL for (int q = 0; q < PLANES; ++q) {
          const __mmask64 negative = plane[q * plane_step + i / STEP];
          codes = _mm512_mask_sub_epi8(codes, negative, codes, _mm512_set1_epi8((char)(2 << q)));
        }
        codes = _mm512_maskz_mov_epi8(real - i >= STEP ? ~0ull : (1ull << (real - i)) - 1, codes);
        _mm512_mask_storeu_epi8(dst + i, bytes - i >= STEP ? ~0ull : (1ull << (bytes - i)) - 1, codes);
      }
    }
  }
}

static void make_codes(const abcfx_lut_args& args, const Shape& shape, const Strip& strip, const Digit& digit,
                       int64_t group, int64_t first, int64_t pairs, int8_t* dst) {
  static constexpr decltype(&make_codes_of<1>) list[AMX_DIGIT] = {make_codes_of<1>, make_codes_of<2>, make_codes_of<3>,
                                                                  make_codes_of<4>, make_codes_of<5>, make_codes_of<6>,
                                                                  make_codes_of<7>};
  list[digit.planes - 1](args, shape, strip, digit, group, first, pairs, dst);
}

/// ±1 of `count` steps for one tile of sixteen output channels. In a vector of weights (abcfx/lut.h) they are the even
/// (odd 0) or odd bytes of 32, from byte 32 * half of each pair of groups on.
///
/// dst  [count] tiles, two tiles apart: row r is four channels of each of sixteen outputs, as TDPBSSD wants them
template <int ODD>
static inline void spread_weights(const Step* steps, int64_t count, const uint8_t* w, int half, int8_t* dst) {
  alignas(64) int8_t signs[16][4];
  for (int nibble = 0; nibble < 16; ++nibble) {
    for (int i = 0; i < 4; ++i) signs[nibble][i] = nibble >> i & 1 ? -1 : 1;
  }
  const __m512i table = _mm512_load_si512(signs);
  for (int64_t s = 0; s < count; ++s, dst += 2 * TILE_STORE) {
    const uint8_t* column = w + steps[s].pair * 64 + 32 * half;
    int64_t i = 0;
    for (; i < steps[s].pairs; ++i) {
      // permutexvar reads the low four bits of an index
      const __m512i both = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(column + 64 * i)));
      const __m512i low = ODD ? _mm512_srli_epi32(both, 8) : both, high = _mm512_srli_epi32(both, ODD ? 12 : 4);
      _mm512_store_si512(dst + 2 * i * STEP, _mm512_permutexvar_epi32(low, table));
      _mm512_store_si512(dst + 2 * i * STEP + STEP, _mm512_permutexvar_epi32(high, table));
    }
    for (i *= 2; i < COLUMNS; ++i) _mm512_store_si512(dst + i * STEP, _mm512_setzero_si512());
  }
}
