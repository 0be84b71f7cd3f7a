#pragma once
#include <immintrin.h>

#include "tiles.h"

// The operands of the tile product as signed bytes, made from bits. Static, for the reason given in bgemm/window.h.

constexpr int AMX_DIGIT = 7;  ///< codes of seven planes, -127 to 127, are signed bytes

/// Where the planes of one digit of the weights of sixteen output channels are.
struct WeightPlanes {
  int planes;
  const uint8_t* w[AMX_DIGIT];  ///< the vector of weights of each plane
  bool odd[AMX_DIGIT];          ///< its odd bytes
  int half;
};

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

/// The signs of one plane times 2^p, from a table of all nibbles, for one step of sixteen output channels. ADD: to those of
/// the planes before. In a vector of weights (abcfx/lut.h) they are the even (ODD 0) or odd bytes of 32.
///
/// dst  a tile: row r is four channels of each of sixteen outputs, as TDPBSSD wants them
template <int ODD, bool ADD>
static inline void spread_plane(const uint8_t* column, int64_t pairs, const __m512i& table, int8_t* dst) {
  const auto put = [&](int64_t row, const __m512i& index) {
    __m512i values = _mm512_permutexvar_epi32(index, table);  // reads the low four bits of an index
    if (ADD) values = _mm512_add_epi8(values, _mm512_load_si512(dst + row * STEP));
    _mm512_store_si512(dst + row * STEP, values);
  };
  for (int64_t i = 0; i < pairs; ++i) {
    const __m512i both = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(column + 64 * i)));
    put(2 * i, ODD ? _mm512_srli_epi32(both, 8) : both);
    put(2 * i + 1, _mm512_srli_epi32(both, ODD ? 12 : 4));
  }
}

/// Signed bytes sum_p ±2^p of `count` steps for one tile of output channels, over the planes of a digit.
///
/// dst  [count] tiles, two tiles apart
static inline void spread_weights(const Step* steps, int64_t count, const WeightPlanes& weights, int8_t* dst) {
  alignas(64) int8_t signs[16][4];
  for (int nibble = 0; nibble < 16; ++nibble) {
    for (int i = 0; i < 4; ++i) signs[nibble][i] = nibble >> i & 1 ? -1 : 1;
  }
  __m512i tables[AMX_DIGIT] = {_mm512_load_si512(signs)};
  for (int p = 1; p < weights.planes; ++p) tables[p] = _mm512_add_epi8(tables[p - 1], tables[p - 1]);
  for (int64_t s = 0; s < count; ++s, dst += 2 * TILE_STORE) {
    const int64_t at = steps[s].pair * 64 + 32 * weights.half, pairs = steps[s].pairs;
    for (int p = 0; p < weights.planes; ++p) {
      const auto spread = weights.odd[p] ? (p ? spread_plane<1, true> : spread_plane<1, false>)
                                         : (p ? spread_plane<0, true> : spread_plane<0, false>);
      spread(weights.w[p] + at, pairs, tables[p], dst);
    }
    for (int64_t i = 2 * pairs; i < COLUMNS; ++i) _mm512_store_si512(dst + i * STEP, _mm512_setzero_si512());
  }
}
