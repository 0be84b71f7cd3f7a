#pragma once
#include <stdint.h>

#include "abcfx/bgemm.h"

// Geometry shared by the variants. Everything is static: each variant is compiled with flags of its own, and a function
// with external linkage compiled for AVX-512 must never be the copy that the linker keeps for all.

/// The words of one output pixel's window in one plane: `lines` lines of `segments` runs of `run` contiguous words,
/// at offsets line * line_step + segment * segment_step from the pixel's base pointer. No copy of the window is made.
struct Window {
  int64_t lines, line_step;
  int64_t segments, segment_step;
  int64_t run;
  int64_t plane_step;  ///< from a plane to the next, at the same pixel
  int64_t words;       ///< lines * segments * run
};

static inline Window window_of(const abcfx_bgemm_args& args) {
  const int64_t pixel = args.groups * args.words;
  Window window;
  window.plane_step = args.padded_w * pixel;
  window.lines = args.kernel_h;
  window.line_step = args.dilation_h * args.activation_bases * window.plane_step;
  const bool contiguous = args.kernel_w == 1 || (args.dilation_w == 1 && args.groups == 1);
  window.segments = contiguous ? 1 : args.kernel_w;
  window.segment_step = args.dilation_w * pixel;
  window.run = contiguous ? args.kernel_w * args.words : args.words;
  window.words = args.kernel_h * args.kernel_w * args.words;
  return window;
}

static inline bool valid(const abcfx_bgemm_args& args) {
  const int64_t blocks = args.groups * ((args.cols + ABCFX_LANES - 1) / ABCFX_LANES);
  const int64_t rows = args.images * args.out_h * args.out_w;
  return args.weight_bases >= 1 && args.weight_bases <= ABCFX_MAX_BASES && args.activation_bases >= 1 &&
         args.activation_bases <= ABCFX_MAX_BASES && args.groups >= 1 && args.cols >= 0 && args.words >= 0 &&
         args.depth >= 0 && args.kernel_h >= 1 && args.kernel_w >= 1 && args.row_begin >= 0 && args.row_end <= rows &&
         args.block_begin >= 0 && args.block_end <= blocks &&
         (rows == 0 || ((args.out_h - 1) * args.stride_h + (args.kernel_h - 1) * args.dilation_h < args.padded_h &&
                        (args.out_w - 1) * args.stride_w + (args.kernel_w - 1) * args.dilation_w < args.padded_w));
}

/// Walks over output rows: image n, line y, pixel x, x fastest.
struct Cursor {
  int64_t n, y, x;
};

static inline Cursor cursor_at(const abcfx_bgemm_args& args, int64_t row) {
  const int64_t line = row / args.out_w;
  return Cursor{line / args.out_h, line % args.out_h, row % args.out_w};
}

static inline void advance(const abcfx_bgemm_args& args, Cursor& cursor) {
  if (++cursor.x < args.out_w) return;
  cursor.x = 0;
  if (++cursor.y < args.out_h) return;
  cursor.y = 0;
  ++cursor.n;
}

/// First word of plane 0, group 0 of the window of an output pixel.
static inline const uint64_t* window_base(const abcfx_bgemm_args& args, const Cursor& cursor) {
  const int64_t line = (cursor.n * args.padded_h + cursor.y * args.stride_h) * args.activation_bases;
  return args.a + (line * args.padded_w + cursor.x * args.stride_w) * args.groups * args.words;
}

/// The vector of `base` that belongs to an output pixel.
static inline const float* base_of(const abcfx_bgemm_args& args, const Cursor& cursor) {
  const int64_t class_h = args.class_h ? args.class_h[cursor.y] : 0;
  const int64_t class_w = args.class_w ? args.class_w[cursor.x] : 0;
  return args.base + (class_h * args.classes_w + class_w) * args.groups * args.cols;
}

/// A block of eight output channels: its group, its first channel counted over all groups, and how many are real.
struct Block {
  int64_t group, channel, count;
};

static inline Block block_of(const abcfx_bgemm_args& args, int64_t index) {
  const int64_t blocks = (args.cols + ABCFX_LANES - 1) / ABCFX_LANES;
  const int64_t first = index % blocks * ABCFX_LANES, left = args.cols - first;
  return Block{index / blocks, index / blocks * args.cols + first, left < ABCFX_LANES ? left : ABCFX_LANES};
}
