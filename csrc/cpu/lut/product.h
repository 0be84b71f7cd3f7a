#pragma once
#include <string.h>

#include "plan.h"

// The product, written once for every vector width; a variant brings the instructions as a struct V:
//
//   vec, LANES                          bytes of a vector = output channels of a block
//   load, store, zero, keep, low4, high4             low and high nibble of every byte
//   table(p), lookup(table, index)      sixteen bytes in every 128-bit lane, a byte shuffle in each
//   add8, add16, sub16, set16, high8    high8: the upper byte of every 16 bits
//   low8to16 (v - (odd << 8))
//   fvec, FLOATS = LANES / 4, to_float(v, half), fload, fstore, fset, fsub, fmadd
//
// and make_tables (tables_<arch>.h). Static, for the reason given in bgemm/window.h.

/// How the window of an output walks over the tables, in bytes, and over the weights of one plane.
struct Walk {
  int64_t lines, line_step;
  int64_t segments, segment_step;
  int64_t run;     ///< pairs that lie side by side in both
  int64_t w_step;  ///< bytes of w from one segment to the next
};

/// What a call has at work: a digit, a chunk of channels of one convolution group, a strip with its tables.
struct Work {
  const abcfx_lut_args* args;
  Shape shape;
  Digit digit;
  Strip strip;
  int64_t group, first_pair, pairs;
  bool start;  ///< the first digit and chunk start from base; the later ones add to dst
  uint8_t* tables;
  int64_t fold, vectors;
  float* scales;  ///< [blocks in range][vectors][lanes], 2 beta alpha in the order of the 16-bit sums; 0 for no channel
  Walk walk;
  int64_t channels;   ///< row stride of dst
  int32_t middle;     ///< floor(Z / 2): the sum over the window of T is Z / 2 + (product) / 2
  float half;         ///< 0.5 if Z is odd, else 0
};

template <class V>
static Walk walk_of(const Work& work) {
  const abcfx_bgemm_args& product = work.args->product;
  const int64_t pixel = work.pairs * PAIR_BYTES, width = region_w(work.shape, work.strip.width);
  const bool whole = work.pairs == work.shape.pairs;
  const bool contiguous = product.kernel_w == 1 || (product.dilation_w == 1 && whole);
  Walk walk;
  walk.lines = product.kernel_h;
  walk.line_step = product.dilation_h * width * pixel;
  walk.segments = contiguous ? 1 : product.kernel_w;
  walk.segment_step = product.dilation_w * pixel;
  walk.run = contiguous ? product.kernel_w * work.pairs : work.pairs;
  walk.w_step = (contiguous ? product.kernel_w : 1) * work.shape.pairs * V::LANES;
  return walk;
}

/// The bytes of up to `flush_pairs` pairs of groups: bytes[r] += T of every row, from `at` to `stop` in the tables.
///
/// `keep` pins a sum to its register: left alone, gcc adds the two lookups first and spends a move on every sum.
template <class V, int ROWS>
static inline __attribute__((always_inline)) void add_pairs(const uint8_t* const (&t)[ROWS], const uint8_t* column,
                                                            int64_t at, int64_t stop, typename V::vec (&bytes)[ROWS]) {
  UNROLL for (int r = 0; r < ROWS; ++r) bytes[r] = V::zero();
  for (; at < stop; at += PAIR_BYTES, column += V::LANES) {
    const typename V::vec both = V::load(column), low = V::low4(both), high = V::high4(both);
    UNROLL for (int r = 0; r < ROWS; ++r) {
      bytes[r] = V::keep(V::add8(bytes[r], V::lookup(V::table(t[r] + at), low)));
      bytes[r] = V::keep(V::add8(bytes[r], V::lookup(V::table(t[r] + at + 16), high)));
    }
  }
}

/// add_pairs of exactly COUNT pairs, unrolled: where sums of a pair or two fill a byte, the loop would cost a third.
template <class V, int ROWS, int COUNT>
static inline __attribute__((always_inline)) void add_pairs(const uint8_t* const (&t)[ROWS], const uint8_t* column,
                                                            int64_t at, typename V::vec (&bytes)[ROWS]) {
  UNROLL for (int i = 0; i < COUNT; ++i) {
    const typename V::vec both = V::load(column + i * V::LANES), low = V::low4(both), high = V::high4(both);
    UNROLL for (int r = 0; r < ROWS; ++r) {
      const uint8_t* table = t[r] + at + i * PAIR_BYTES;
      const typename V::vec first = V::lookup(V::table(table), low);
      bytes[r] = i == 0 ? first : V::keep(V::add8(bytes[r], first));
      bytes[r] = V::keep(V::add8(bytes[r], V::lookup(V::table(table + 16), high)));
    }
  }
}

/// sums[r] = {sum of 16-bit words, sum of upper bytes} of ROWS rows over a window, from bytes that are added
/// `flush_pairs` times before they could overflow. A word is even + 256 odd, so the even sums follow by a subtraction.
///
/// In registers where bytes are flushed often, else in memory, which leaves registers for more rows. FLUSH is
/// flush_pairs if it is known, else 0.
template <class V, int ROWS, bool REGISTERS, int FLUSH>
static inline __attribute__((always_inline)) void look_up(const Walk& walk, int64_t flush_pairs,
                                                          const uint8_t* const (&tables)[ROWS], const uint8_t* w,
                                                          uint8_t* sums) {
  typename V::vec words[ROWS], uppers[ROWS];
  UNROLL for (int r = 0; r < ROWS; ++r) words[r] = uppers[r] = V::zero();
  bool fresh = true;  // nothing in memory yet
  for (int64_t y = 0; y < walk.lines; ++y) {
    for (int64_t x = 0; x < walk.segments; ++x, w += walk.w_step) {
      const int64_t offset = y * walk.line_step + x * walk.segment_step;
      const uint8_t* t[ROWS];
      UNROLL for (int r = 0; r < ROWS; ++r) t[r] = tables[r] + offset;
      const uint8_t* column = w;
      const int64_t flush = FLUSH > 0 ? FLUSH : flush_pairs;
      const int64_t end = walk.run * PAIR_BYTES, step = flush * PAIR_BYTES;
      int64_t at = 0;
      for (; FLUSH > 0 && at + step <= end; at += step, column += flush * V::LANES) {
        typename V::vec bytes[ROWS];
        add_pairs<V, ROWS, FLUSH>(t, column, at, bytes);
        UNROLL for (int r = 0; r < ROWS; ++r) {
          words[r] = V::keep(V::add16(words[r], bytes[r]));
          uppers[r] = V::keep(V::add16(uppers[r], V::high8(bytes[r])));
        }
      }
      for (; at < end; at += step, column += flush * V::LANES) {
        typename V::vec bytes[ROWS];
        add_pairs<V, ROWS>(t, column, at, at + step < end ? at + step : end, bytes);
        UNROLL for (int r = 0; r < ROWS; ++r) {
          uint8_t* sum = sums + 2 * r * V::LANES;
          if (!REGISTERS) words[r] = fresh ? V::zero() : V::load(sum);
          if (!REGISTERS) uppers[r] = fresh ? V::zero() : V::load(sum + V::LANES);
          words[r] = V::add16(words[r], bytes[r]);
          uppers[r] = V::add16(uppers[r], V::high8(bytes[r]));
          if (!REGISTERS) V::store(sum, words[r]);
          if (!REGISTERS) V::store(sum + V::LANES, uppers[r]);
        }
        fresh = false;
      }
    }
  }
  if (!REGISTERS && !fresh) return;
  UNROLL for (int r = 0; r < ROWS; ++r) {
    V::store(sums + 2 * r * V::LANES, words[r]);
    V::store(sums + (2 * r + 1) * V::LANES, uppers[r]);
  }
}

/// to = from + 2 beta alpha * (sum of T - Z / 2) for one row and the first `count` float vectors of a block, the 16-bit
/// difference being exact. Folded, the odd sums are the second plane of the same output channels.
template <class V>
static inline __attribute__((always_inline)) void add_scaled(const Work& work, const uint8_t* sums, const float* scales,
                                                             const float* from, float* to, int64_t count) {
  const typename V::vec middle = V::set16((short)work.middle), odd = V::load(sums + V::LANES);
  const typename V::vec even = V::low8to16(V::load(sums), odd);
  const typename V::vec value[2] = {V::sub16(even, middle), V::sub16(odd, middle)};
  const bool folded = work.fold == 2;
  UNROLL for (int i = 0; i < 4; ++i) {
    const int place = folded ? i % 2 : i;
    if (place >= count) continue;
    const typename V::fvec before = V::fload((folded && i >= 2 ? to : from) + place * V::FLOATS);
    const typename V::fvec exact = V::fsub(V::to_float(value[i / 2], i % 2), V::fset(work.half));
    V::fstore(to + place * V::FLOATS, V::fmadd(V::fload(scales + i * V::FLOATS), exact, before));
  }
}

/// ROWS output pixels against every block in range of the convolution group.
template <class V, int ROWS, bool REGISTERS, int FLUSH = 0>
static void tile(const Work& work, int64_t row, int64_t block_begin, int64_t block_end) {
  const abcfx_bgemm_args& product = work.args->product;
  const int64_t width = region_w(work.shape, work.strip.width), pixel = work.pairs * PAIR_BYTES;
  const int64_t per_group = ceil_of(product.cols, V::LANES), plane = work.shape.taps * work.shape.pairs * V::LANES;
  const uint8_t* tables[ROWS];
  const float* base[ROWS];
  float* dst[ROWS];
  int64_t y = row / work.strip.width, x = row % work.strip.width;
  for (int r = 0; r < ROWS; ++r) {
    const Cursor at{work.strip.n, work.strip.y + y, work.strip.x + x};
    tables[r] = work.tables + (y * work.shape.step_h * width + x * work.shape.step_w) * pixel;
    dst[r] = product.dst + ((at.n * product.out_h + at.y) * product.out_w + at.x) * work.channels;
    base[r] = work.start ? base_of(product, at) : dst[r];
    if (++x == work.strip.width) x = 0, ++y;
  }
  for (int64_t b = block_begin; b < block_end; ++b) {
    const int64_t in_group = b % per_group * V::LANES, channel = work.group * product.cols + in_group;
    const int64_t left = product.cols - in_group, real = left < V::LANES ? left : V::LANES;
    const int64_t count = ceil_of(real, V::FLOATS);
    const bool whole = real % V::FLOATS == 0;  // else the last vector would run past the last channel: through a copy
    const uint8_t* w = work.args->w + b * work.vectors * plane + work.first_pair * V::LANES;
    const float* scales = work.scales + (b - product.block_begin) * work.vectors * V::LANES;
    alignas(64) float copy[ROWS][V::LANES];
    alignas(64) uint8_t sums[ROWS * 2 * V::LANES];
    for (int r = 0; !whole && r < ROWS; ++r) memcpy(copy[r], base[r] + channel, real * sizeof(float));
    for (int64_t v = 0; v < work.vectors; ++v) {
      look_up<V, ROWS, REGISTERS, FLUSH>(work.walk, work.digit.flush_pairs, tables, w + v * plane, sums);
      for (int r = 0; r < ROWS; ++r) {
        float* to = whole ? dst[r] + channel : copy[r];
        const float* from = whole && v == 0 ? base[r] + channel : to;
        add_scaled<V>(work, sums + 2 * r * V::LANES, scales + v * V::LANES, from, to, count);
      }
    }
    for (int r = 0; !whole && r < ROWS; ++r) memcpy(dst[r] + channel, copy[r], real * sizeof(float));
  }
}

/// Scales of every block in range for the digit at work.
template <class V>
static void make_scales(const Work& work) {
  const abcfx_bgemm_args& product = work.args->product;
  const int64_t per_group = ceil_of(product.cols, V::LANES);
  const float factor = 2.0f * product.beta[work.digit.first];
  float* scale = work.scales;
  for (int64_t b = product.block_begin; b < product.block_end; ++b) {
    const int64_t first = b % per_group * V::LANES;
    for (int64_t v = 0; v < work.vectors; ++v) {
      for (int64_t i = 0; i < V::LANES; ++i) {
        const bool second = work.fold == 2 && i >= V::LANES / 2;
        const int64_t p = work.fold * v + second, o = first + (second ? i - V::LANES / 2 : i);
        const bool real = p < product.weight_bases && o < product.cols;
        *scale++ = real ? factor * product.alpha[p * work.channels + b / per_group * product.cols + o] : 0.0f;
      }
    }
  }
}

/// The strip at work, its tables made, against blocks [block_begin, block_end) of one convolution group.
template <class V>
static void run_strip(Work& work, int64_t block_begin, int64_t block_end) {
  const int64_t tail = 8 * (work.first_pair + work.pairs) - work.args->channels;
  const int64_t slots = 8 * work.pairs + (tail > 0 ? tail : 0);  // a slot past the last channel counts twice
  const int64_t zero = work.digit.top * work.shape.taps * slots;
  work.middle = (int32_t)(zero >> 1);
  work.half = zero & 1 ? 0.5f : 0.0f;
  work.walk = walk_of<V>(work);
  const int64_t rows = work.strip.lines * work.strip.width;
  int64_t row = 0;
  if (work.digit.flush_pairs == 1) {
    for (; row + 3 <= rows; row += 3) tile<V, 3, true, 1>(work, row, block_begin, block_end);
  } else if (work.digit.flush_pairs == 2) {
    for (; row + 3 <= rows; row += 3) tile<V, 3, true, 2>(work, row, block_begin, block_end);
  } else {
    for (; row + 6 <= rows; row += 6) tile<V, 6, false>(work, row, block_begin, block_end);
    for (; row + 3 <= rows; row += 3) tile<V, 3, true>(work, row, block_begin, block_end);
  }
  if (rows - row == 2) tile<V, 2, true>(work, row, block_begin, block_end);
  if (rows - row == 1) tile<V, 1, true>(work, row, block_begin, block_end);
}

/// All strips, convolution groups and chunks of channels for the digit at work.
template <class V>
static void run_digit(Work& work, bool first) {
  const abcfx_lut_args& args = *work.args;
  const abcfx_bgemm_args& product = args.product;
  make_scales<V>(work);
  for (int64_t row = product.row_begin; row < product.row_end; row += work.strip.lines * work.strip.width) {
    work.strip = strip_at(product, work.shape, row);
    for_each_chunk(product, work.shape, V::LANES, [&](const Chunk& chunk) {  // an empty one: dst = base
      work.group = chunk.group;
      work.first_pair = chunk.first_pair;
      work.pairs = chunk.pairs;
      work.start = first && work.first_pair == 0;
      make_tables(args, work.shape, work.strip, work.digit, work.group, work.first_pair, work.pairs, work.tables);
      run_strip<V>(work, chunk.block_begin, chunk.block_end);
    });
  }
}

template <class V>
static int run_product(const abcfx_lut_args& args) {
  if (!valid(args, V::LANES)) return ABCFX_BAD_SHAPE;
  const abcfx_bgemm_args& product = args.product;
  if (product.row_begin >= product.row_end || product.block_begin >= product.block_end) return ABCFX_OK;
  Work work = {};
  work.args = &args;
  work.shape = shape_of(args);
  work.channels = product.groups * product.cols;
  work.fold = fold_of(product.cols, V::LANES);
  work.vectors = ceil_of(product.weight_bases, work.fold);
  work.tables = (uint8_t*)args.scratch;
  work.scales = (float*)(work.tables + table_bytes(work.shape) / 64 * 64);
  const Digits digits = digits_of(product, MAX_DIGIT);
  for (int d = 0; d < digits.count; ++d) {
    work.digit = digits.list[d];
    run_digit<V>(work, d == 0);
  }
  return ABCFX_OK;
}
