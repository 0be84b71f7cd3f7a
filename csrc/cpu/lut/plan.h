#pragma once
#include <stdint.h>

#include "../bgemm/window.h"
#include "abcfx/lut.h"

// How a call is cut up: digits of planes, strips of rows whose tables fit the second cache, chunks of channels whose
// tables fit the first. Static, for the reason given in bgemm/window.h.

// Arrays of vectors become registers only if every loop over them is unrolled before the compiler looks.
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

constexpr int MAX_DIGIT = 5;               ///< 4 * (2^5 - 1) = 124: two groups of four channels fit in a byte
constexpr int64_t STRIP_BYTES = 192 << 10;  ///< tables of a strip: they stay in the second cache with the weights
constexpr int64_t TILE_BYTES = 24 << 10;    ///< tables that one tile of rows reads: they stay in the first cache
constexpr int TILE_ROWS = 6;
constexpr int PAIR_BYTES = 32;              ///< the tables of eight channels: two of sixteen bytes

/// Planes [first, first + planes) of one operand, one integer of `planes` bits.
struct Digit {
  int first, planes, top;  ///< top = L = 2^planes - 1
  int flush_pairs;         ///< pairs of groups whose sums fit in a byte: 255 / (2 * 4 L)
};

struct Digits {
  int count;
  Digit list[ABCFX_MAX_BASES];
};

/// Runs of planes whose scale doubles, split into the fewest digits of about the same size, of at most `most` planes.
/// doubles(p): whether plane p has twice the scale of the one before.
template <class Doubles>
static inline Digits cut_digits(int bases, int most, const Doubles& doubles) {
  Digits digits = {};
  for (int first = 0; first < bases;) {
    int end = first + 1;
    while (end < bases && doubles(end)) ++end;
    int parts = (end - first + most - 1) / most;
    for (; parts > 0; --parts) {
      const int planes = (end - first + parts - 1) / parts, top = (1 << planes) - 1;
      digits.list[digits.count++] = Digit{first, planes, top, 255 / (8 * top)};
      first += planes;
    }
  }
  return digits;
}

static inline Digits digits_of(const abcfx_bgemm_args& args, int most) {
  return cut_digits((int)args.activation_bases, most,
                    [&](int q) { return args.beta[q] == 2.0f * args.beta[q - 1]; });
}

/// The same of the weights: a scale has to double in every output channel.
static inline Digits weight_digits_of(const abcfx_bgemm_args& args, int most) {
  const int64_t channels = args.groups * args.cols;
  return cut_digits((int)args.weight_bases, most, [&](int p) {
    const float *low = args.alpha + (p - 1) * channels, *high = low + channels;
    bool all = true;
    for (int64_t o = 0; o < channels; ++o) all &= high[o] == 2.0f * low[o];
    return all;
  });
}

/// Sizes that hold for a whole call.
struct Shape {
  int64_t taps;
  int64_t pairs;        ///< groups of eight channels: ceil(channels / 8)
  int64_t chunk_pairs;  ///< at most so many at a time
  int64_t step_h, step_w;    ///< pixels of the table region from an output to the next
  int64_t reach_h, reach_w;  ///< pixels of the region that one output needs
  int64_t pixel_bytes;       ///< of a chunk of channels of one pixel of the region
  int64_t tile_rows;         ///< outputs that are computed at once
};

static inline int64_t ceil_of(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// A kernel of one line (column) needs no pixels between the outputs, whatever the stride.
static inline Shape shape_of(const abcfx_lut_args& args) {
  const abcfx_bgemm_args& product = args.product;
  Shape shape = {};
  shape.taps = product.kernel_h * product.kernel_w;
  shape.pairs = ceil_of(args.channels, 8);
  shape.step_h = product.kernel_h == 1 ? 1 : product.stride_h;
  shape.step_w = product.kernel_w == 1 ? 1 : product.stride_w;
  shape.reach_h = (product.kernel_h - 1) * product.dilation_h + 1;
  shape.reach_w = (product.kernel_w - 1) * product.dilation_w + 1;
  const int64_t apart = shape.step_w < product.kernel_w ? shape.step_w : product.kernel_w;
  const int64_t pixels = product.kernel_h * (product.kernel_w + (TILE_ROWS - 1) * apart);
  const int64_t by_cache = TILE_BYTES / (PAIR_BYTES * pixels), by_sum = 65535 / (((1 << MAX_DIGIT) - 1) * 8 * shape.taps);
  int64_t most = by_cache < by_sum ? by_cache : by_sum;
  most = most >= 4 ? most / 4 * 4 : most >= 2 ? 2 : 1;  // a chunk starts where four, two or one pairs fill a word
  const int64_t chunks = ceil_of(shape.pairs, most);
  if (chunks <= 1) {
    shape.chunk_pairs = shape.pairs > 0 ? shape.pairs : 1;
  } else {
    shape.chunk_pairs = most >= 4 ? ceil_of(ceil_of(shape.pairs, chunks), 4) * 4 : most;
  }
  shape.pixel_bytes = shape.chunk_pairs * PAIR_BYTES;
  shape.tile_rows = TILE_ROWS;
  return shape;
}

/// Planes of the weights that share a vector, and vectors a block (abcfx/lut.h).
static inline int64_t fold_of(int64_t cols, int64_t lanes) { return 2 * cols <= lanes ? 2 : 1; }
static inline int64_t vectors_of(int64_t bases, int64_t cols, int64_t lanes) {
  return ceil_of(bases, fold_of(cols, lanes));
}

/// Output pixels [x, x + width) of output lines [y, y + lines) of image n.
struct Strip {
  int64_t n, y, x, lines, width;
};

static inline int64_t region_h(const Shape& shape, int64_t lines) { return (lines - 1) * shape.step_h + shape.reach_h; }
static inline int64_t region_w(const Shape& shape, int64_t width) { return (width - 1) * shape.step_w + shape.reach_w; }

/// How many steps of `step` pixels after the first reach fit in `room` pixels, at least one output.
static inline int64_t outputs_in(int64_t room, int64_t reach, int64_t step) {
  return room <= reach ? 1 : (room - reach) / step + 1;
}

/// The next strip from `row` on: whole lines of one image if they fit, else a piece of a line.
static inline Strip strip_at(const abcfx_bgemm_args& args, const Shape& shape, int64_t row) {
  const Cursor at = cursor_at(args, row);
  const int64_t pixel = shape.pixel_bytes, left = args.row_end - row;
  const int64_t line_bytes = region_w(shape, args.out_w) * pixel;
  int64_t lines = left / args.out_w < args.out_h - at.y ? left / args.out_w : args.out_h - at.y;
  if (at.x == 0 && lines >= 1 && line_bytes * shape.reach_h <= STRIP_BYTES) {
    const int64_t fit = outputs_in(STRIP_BYTES / line_bytes, shape.reach_h, shape.step_h);
    const int64_t strips = ceil_of(lines, fit);
    return Strip{at.n, at.y, 0, ceil_of(lines, strips), args.out_w};
  }
  const int64_t rest = left < args.out_w - at.x ? left : args.out_w - at.x;
  const int64_t fit = outputs_in(STRIP_BYTES / (pixel * shape.reach_h), shape.reach_w, shape.step_w);
  const int64_t tiles = fit >= shape.tile_rows ? fit / shape.tile_rows * shape.tile_rows : fit;
  return Strip{at.n, at.y, at.x, 1, rest < tiles ? rest : tiles};
}

/// Blocks [block_begin, block_end) of one convolution group, and a chunk of its channels.
struct Chunk {
  int64_t group, first_pair, pairs, block_begin, block_end;
};

/// run(chunk) for all convolution groups and chunks of channels of a call; without channels for one that is empty.
template <class Run>
static inline void for_each_chunk(const abcfx_bgemm_args& args, const Shape& shape, int64_t lanes, const Run& run) {
  const int64_t per_group = ceil_of(args.cols, lanes);
  for (int64_t block = args.block_begin; block < args.block_end;) {
    const int64_t group = block / per_group, group_end = (group + 1) * per_group;
    const int64_t end = group_end < args.block_end ? group_end : args.block_end;
    for (int64_t first = 0; first == 0 || first < shape.pairs; first += shape.chunk_pairs) {
      const int64_t left = shape.pairs - first;
      run(Chunk{group, first, left < shape.chunk_pairs ? left : shape.chunk_pairs, block, end});
    }
    block = end;
  }
}

/// Tables of the largest strip, then the scales of every block in range.
static inline int64_t table_bytes(const Shape& shape) {
  const int64_t least = shape.reach_h * shape.reach_w * shape.pixel_bytes;
  return (least > STRIP_BYTES ? least : STRIP_BYTES) + 64;
}

static inline int64_t scratch_bytes(const abcfx_lut_args& args) {
  const int64_t blocks = args.product.block_end - args.product.block_begin;
  return table_bytes(shape_of(args)) + blocks * args.product.weight_bases * 64 * (int64_t)sizeof(float);
}

static inline bool valid(const abcfx_lut_args& args, int64_t lanes) {
  abcfx_bgemm_args product = args.product;
  if (product.cols < 0 || product.groups < 1) return false;
  const int64_t blocks = product.groups * ceil_of(product.cols, lanes);
  if (product.block_begin < 0 || product.block_end > blocks) return false;
  product.block_begin = product.block_end = 0;
  return valid(product) && args.channels >= 0 && (args.channels + 63) / 64 == product.words &&
         product.kernel_h * product.kernel_w <= ABCFX_LUT_MAX_TAPS;
}
