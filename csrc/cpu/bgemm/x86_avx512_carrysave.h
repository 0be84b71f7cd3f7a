#pragma once
// The carry-save kernel. Two words of a window are added into a register of ones by a full adder; only its carries are
// counted. With x1, x2 of the activations and w1, w2 of the weights,
//
//   p = x1 ^ w1    t = (x1 ^ x2) ^ (w1 ^ w2)    s = ones ^ t    carry = majority(p, x2 ^ w2, ones)
//
// x2 ^ w2 = p ^ t, so the majority is a function of p, ones and s: its truth table is 0xD4. In the end
// popcount = 2 * (sum of popcounts of the carries) + popcount(ones).
//
// Given X12 = x1 ^ x2 and W12 = w1 ^ w2 that is 5 vector operations for two words (xor, ternary, ternary, popcount,
// add), against 6 of the basic kernel. W12 is one xor for all rows of a tile; X12 comes from the panel.
#include "x86_avx512.h"

namespace {

/// Windows of a tile: 12 = least common multiple of 1 to 4 activation planes, so 12, 6, 4 or 3 rows with all their planes.
/// 12 x 2 accumulators, w1 and W12, and what is left of 32 registers for the step. A tile is one block wide: more blocks
/// would take rows, and with them pay more for W12.
constexpr int VR = 12;
/// The panel holds the windows of some rows of one convolution group, tile by tile: [tile][pair of words][VR]{x1, X12}.
constexpr int PAIR = 2 * VR;
/// What is filled of it if a tile allows: 24 KiB, so that it shares the first cache with the column of weights.
constexpr int64_t PANEL_WORDS = 3072;
/// What it may hold at most, one tile: windows of up to 682 words. The basic kernel takes the longer ones.
constexpr int64_t PANEL_MOST = 8192;

/// Whether carry save wins on windows of `words` words against `columns` weight planes of blocks.
///
/// Operations are issued two a cycle. Carry save needs (5 + 1/12) / 2 = 2.54 for a word and column, basic needs 3: a gain
/// of 0.23 = 3/13 cycles. Its longer epilogue, and its colder start, take back the gain of 9 words (a measured limit:
/// at 576 bits the two are even). Gathering the panel costs a cycle a word, once for all columns.
inline bool carry_save_pays(int64_t words, int64_t columns) { return 3 * columns * (words - 9) > 13 * words; }

inline int64_t words_of_tile(const Window& window) { return (window.words + 1) / 2 * PAIR; }

/// How many of `count` rows go through carry-save tiles: those of the full tiles, and the rest if it fills half a tile.
inline int64_t carry_save_rows(const Job& job, int64_t nq, int64_t count, bool forced) {
  const abcfx_bgemm_args& args = *job.args;
  if (words_of_tile(job.window) > PANEL_MOST) return 0;
  const int64_t columns = (group_end(args, args.block_begin) - args.block_begin) * args.weight_bases;
  if (!forced && !carry_save_pays(job.window.words, columns)) return 0;
  const int64_t step = VR / nq, rest = count % step;
  return forced || 2 * rest >= step ? count : count - rest;
}

/// Writes one window into its place of a tile, as pairs (x1, x1 ^ x2) that run on across the segments of the window. If
/// the number of words is odd, the first stands alone, as the second of a pair (0, x).
inline void gather_window(const Window& window, const uint64_t* a, uint64_t* dst) {
  bool half = window.words % 2;
  if (half) dst[0] = 0;
  for (int64_t y = 0; y < window.lines; ++y) {
    for (int64_t x = 0; x < window.segments; ++x) {
      const uint64_t* segment = a + y * window.line_step + x * window.segment_step;
      int64_t i = 0;
      if (half && window.run > 0) {
        dst[1] = dst[0] ^ segment[i++];
        dst += PAIR;
        half = false;
      }
      for (; i + 1 < window.run; i += 2, dst += PAIR) {
        const uint64_t first = segment[i];
        dst[0] = first;
        dst[1] = first ^ segment[i + 1];
      }
      if (i < window.run) {
        dst[0] = segment[i];
        half = true;
      }
    }
  }
}

/// The windows of the tile that begins at `row`, row r and plane q at place r * nq + q. Rows past the last repeat it.
inline void gather_tile(const Job& job, const Rows& rows, const Columns& columns, int64_t row, int64_t nq,
                        uint64_t* dst) {
  for (int64_t v = 0; v < VR; ++row) {
    const uint64_t* a = rows.a[row] + columns.a_offset;
    for (int64_t q = 0; q < nq; ++q, ++v, a += job.window.plane_step) gather_window(job.window, a, dst + 2 * v);
  }
}

/// One full adder; count += popcount(carry).
///
/// Twelve of them are independent, and gcc, seeing that, begins them all and runs out of registers; it also updates a copy
/// of `ones` and copies that back. The second FINISH makes it end one adder before the next begins, the first makes the
/// copy of the old ones the short-lived one. Copies are free: the processor renames them.
inline __attribute__((always_inline)) void add_pair(const uint64_t* x, __m512i w1, __m512i w12, __m512i& ones,
                                                    __m512i& count) {
  __m512i before = ones;
  FINISH(ones, before);
  const __m512i p = _mm512_xor_epi64(w1, _mm512_set1_epi64((int64_t)x[0]));
  ones = _mm512_ternarylogic_epi64(ones, w12, _mm512_set1_epi64((int64_t)x[1]), 0x96);
  count = _mm512_add_epi64(count, _mm512_popcnt_epi64(_mm512_ternarylogic_epi64(p, before, ones, 0xD4)));
  FINISH(ones, count);
}

/// acc = popcount - 2 * quarter of the windows of a tile and one column of `words` words. A word without a partner comes
/// first: it is what the ones begin with.
inline __attribute__((always_inline)) void accumulate(const uint64_t* panel, const uint64_t* w, int64_t words,
                                                      int64_t quarter, __m512i (&acc)[VR]) {
  __m512i ones[VR];
  UNROLL for (int v = 0; v < VR; ++v) {
    ones[v] = _mm512_setzero_si512();
    acc[v] = _mm512_set1_epi64(-quarter);
  }
  if (words & 1) {
    const __m512i alone = _mm512_loadu_si512(w);
    UNROLL for (int v = 0; v < VR; ++v) ones[v] = _mm512_xor_epi64(_mm512_set1_epi64((int64_t)panel[2 * v + 1]), alone);
    panel += PAIR;
    w += LANES;
  }
  for (int64_t pairs = words / 2; pairs > 0; --pairs, panel += PAIR, w += 2 * LANES) {
    const __m512i w1 = _mm512_loadu_si512(w), w12 = _mm512_xor_epi64(w1, _mm512_loadu_si512(w + LANES));
    UNROLL for (int v = 0; v < VR; ++v) add_pair(panel + 2 * v, w1, w12, ones[v], acc[v]);
  }
  UNROLL for (int v = 0; v < VR; ++v) {
    acc[v] = _mm512_add_epi64(_mm512_add_epi64(acc[v], acc[v]), _mm512_popcnt_epi64(ones[v]));
  }
}

/// Two rows side by side: eight channels of each.
inline __m512 rows_of(__m256 first, __m256 second) {
  return _mm512_insertf32x8(_mm512_castps256_ps512(first), second, 1);
}

/// VR / NQ rows from `row` on, of which `count` exist, and one block of channels: all planes of an output are added up in
/// registers, those of one weight plane at a time. The order of the f32 operations is that of the basic kernel. Rows past
/// the last repeat it: what they store over it is the same.
template <int NQ>
void carry_save_tile(const Job& job, const Rows& rows, const uint64_t* panel, const Columns& columns, int64_t row,
                     int64_t count) {
  constexpr int ROWS = VR / NQ, PAIRS = (ROWS + 1) / 2;
  const abcfx_bgemm_args& args = *job.args;
  const __mmask8 lanes = columns.last;
  float* dst[2 * PAIRS];
  __m512 sum[PAIRS];
  float* at = args.dst + (args.row_begin + row) * job.channels + columns.channel;
  UNROLL for (int r = 0; r < 2 * PAIRS; ++r) {
    dst[r] = at;
    at += r + 1 < count ? job.channels : 0;
  }
  UNROLL for (int i = 0; i < PAIRS; ++i) {
    const float* first = job.q0 == 0 ? rows.base[row + 2 * i] + columns.channel : dst[2 * i];
    const float* second = job.q0 == 0 ? rows.base[row + 2 * i + 1] + columns.channel : dst[2 * i + 1];
    sum[i] = rows_of(_mm256_maskz_loadu_ps(lanes, first), _mm256_maskz_loadu_ps(lanes, second));
  }
  const float* alpha = args.alpha + columns.channel;
  const uint64_t* w = columns.w;
  for (int64_t p = 0; p < args.weight_bases; ++p, alpha += job.channels, w += job.window.words * LANES) {
    __m512i acc[VR];
    accumulate(panel, w, job.window.words, job.quarter, acc);
    const __m512 scale = _mm512_broadcast_f32x8(_mm256_maskz_loadu_ps(lanes, alpha));
    UNROLL for (int i = 0; i < PAIRS; ++i) {
      constexpr int odd = ROWS % 2;
      const int first = 2 * i * NQ, second = odd && i == PAIRS - 1 ? first : first + NQ;
      __m512 inner = _mm512_set1_ps(job.start);
      UNROLL for (int q = 0; q < NQ; ++q) {
        const __m512 value = floats_of(acc[first + q], acc[second + q]);
        inner = _mm512_fmadd_ps(_mm512_set1_ps(job.minus2beta[job.q0 + q]), value, inner);
      }
      sum[i] = _mm512_fmadd_ps(scale, inner, sum[i]);
    }
  }
  UNROLL for (int r = 0; r < ROWS; ++r) {
    const __m256 value = r % 2 ? _mm512_extractf32x8_ps(sum[r / 2], 1) : _mm512_castps512_ps256(sum[r / 2]);
    _mm256_mask_storeu_ps(dst[r], lanes, value);
  }
}

typedef void (*CarrySaveTile)(const Job& job, const Rows& rows, const uint64_t* panel, const Columns& columns,
                              int64_t row, int64_t count);

/// Rows [0, count) with activation planes q0 to q0 + nq - 1 and all weight planes: panel by panel, and for each panel
/// block by block, so that a column of weights meets all rows of the panel while it is in the first cache.
void stream_carry_save(Job& job, const Rows& rows, int64_t count, int64_t nq) {
  static const CarrySaveTile tiles[4] = {carry_save_tile<1>, carry_save_tile<2>, carry_save_tile<3>,
                                         carry_save_tile<4>};
  const CarrySaveTile tile = tiles[nq - 1];
  const abcfx_bgemm_args& args = *job.args;
  const int64_t step = VR / nq, tile_words = words_of_tile(job.window);
  const int64_t fit = tile_words ? PANEL_WORDS / tile_words : CHUNK, panel_rows = (fit > 1 ? fit : 1) * step;
  alignas(64) uint64_t panel[PANEL_MOST];
  job.p0 = 0;
  for (int64_t block = args.block_begin; block < args.block_end;) {
    const int64_t last = group_end(args, block);
    for (int64_t begin = 0; begin < count; begin += panel_rows) {
      const int64_t end = begin + panel_rows < count ? begin + panel_rows : count;
      const Columns group = columns_of(job, block, 1);
      uint64_t* place = panel;
      for (int64_t row = begin; row < end; row += step, place += tile_words) {
        gather_tile(job, rows, group, row, nq, place);
      }
      for (int64_t b = block; b < last; ++b) {
        const Columns columns = columns_of(job, b, 1);
        const uint64_t* windows = panel;
        for (int64_t row = begin; row < end; row += step, windows += tile_words) {
          tile(job, rows, windows, columns, row, end - row < step ? end - row : step);
        }
      }
    }
    block = last;
  }
}

}  // namespace
