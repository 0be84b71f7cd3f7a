#pragma once
#include <stdint.h>

#include "abcfx/cuda.h"

// Where things are in device and shared memory. Pure functions, compiled for the host as well.
#if defined(__CUDACC__)
#define ABCFX_HD __host__ __device__ __forceinline__
#else
#define ABCFX_HD inline
#endif

namespace abcfx_cuda {

/// The sizes of a product in 32 bits: offsets are in words of 8 bytes, so an image of 32 GiB is within reach.
struct Window {
  uint32_t words, taps, kernel_w, line_step, pixel_step, plane_step;
  uint32_t out_w, out_h, image_step, row_step, column_step, group_words;
  uint32_t rows, cols, reduction;  ///< reduction: words of one window
};

ABCFX_HD Window window_of(const abcfx_cuda_bgemm_args& t) {
  Window w;
  const int64_t pixel = t.groups * t.words, plane = t.padded_w * pixel, line = t.activation_bases * plane;
  w.words = (uint32_t)t.words;
  w.taps = (uint32_t)(t.kernel_h * t.kernel_w);
  w.kernel_w = (uint32_t)t.kernel_w;
  w.line_step = (uint32_t)(t.dilation_h * line);
  w.pixel_step = (uint32_t)(t.dilation_w * pixel);
  w.plane_step = (uint32_t)plane;
  w.out_w = (uint32_t)t.out_w;
  w.out_h = (uint32_t)t.out_h;
  w.image_step = (uint32_t)(t.padded_h * line);
  w.row_step = (uint32_t)(t.stride_h * line);
  w.column_step = (uint32_t)(t.stride_w * pixel);
  w.group_words = w.words;
  w.rows = (uint32_t)(t.images * t.out_h * t.out_w);
  w.cols = (uint32_t)t.cols;
  w.reduction = w.taps * w.words;
  return w;
}

/// First word of the window of output row `row`, plane 0, from the start of the image.
ABCFX_HD uint32_t row_offset(const Window& w, uint32_t row, uint32_t group) {
  const uint32_t line = row / w.out_w, x = row - line * w.out_w, n = line / w.out_h, y = line - n * w.out_h;
  return n * w.image_step + y * w.row_step + x * w.column_step + group * w.group_words;
}

/// Word k of a window, from its first word.
ABCFX_HD uint32_t word_offset(const Window& w, uint32_t k) {
  const uint32_t tap = k / w.words, i = k - tap * w.words, ky = tap / w.kernel_w, kx = tap - ky * w.kernel_w;
  return ky * w.line_step + kx * w.pixel_step + i;
}

constexpr int STEP_WORDS = 8;  ///< reduction words of one stage: rows of 64 bytes in shared memory

/// Byte of 16-byte unit `unit` (0 to 3) of row `row`. Two rows share 128 bytes, all banks once; units are xored with
/// bits of the row so that the eight rows of an ldmatrix meet eight different groups of banks.
ABCFX_HD uint32_t swizzled(uint32_t row, uint32_t unit) { return row * 64 + ((unit ^ (row >> 1 & 3)) << 4); }

/// Row and unit that lane `lane` names for ldmatrix.x4: a0..a3 of m16n8k256 are rows 0-7, 8-15 of the first 128 bits,
/// then of the second; b0, b1 of two neighbouring column blocks are their first and second 128 bits.
ABCFX_HD uint32_t a_row(uint32_t lane) { return lane & 15; }
ABCFX_HD uint32_t a_unit(uint32_t lane) { return lane >> 4; }
ABCFX_HD uint32_t b_row(uint32_t lane) { return (lane >> 4) * 8 + (lane & 7); }
ABCFX_HD uint32_t b_unit(uint32_t lane) { return lane >> 3 & 1; }

/// Row and column of accumulator i (0 to 3) of a lane in its 16 x 8 block.
ABCFX_HD uint32_t c_row(uint32_t lane, int i) { return lane / 4 + (i >> 1) * 8; }
ABCFX_HD uint32_t c_col(uint32_t lane, int i) { return lane % 4 * 2 + (i & 1); }

/// Weight planes and activation planes taken at once, output rows and columns of a warp; 2 x 2 warps.
template <int WEIGHTS_, int PLANES_, int WARP_ROWS_, int WARP_COLS_, bool ONCE_>
struct Tile {
  static constexpr int WEIGHTS = WEIGHTS_, PLANES = PLANES_, WARP_ROWS = WARP_ROWS_, WARP_COLS = WARP_COLS_;
  static constexpr bool ONCE = ONCE_;  ///< one pass over the reduction: no f32 sums beside the integers
  static constexpr int ROWS = 2 * WARP_ROWS, COLS = 2 * WARP_COLS, THREADS = 128, STAGES = 4;
  static constexpr int A_ROWS = ROWS * PLANES, B_ROWS = COLS * WEIGHTS, STAGE_BYTES = (A_ROWS + B_ROWS) * 64;
  static constexpr int BYTES = STAGES * STAGE_BYTES + ROWS * 4;  ///< and the row offsets
  static constexpr int ROW_BLOCKS = WARP_ROWS / 16, COL_BLOCKS = WARP_COLS / 8;
};

}  // namespace abcfx_cuda
