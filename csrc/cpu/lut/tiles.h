#pragma once
#include "plan.h"

// Sizes of a call of the tile kernel (x86_amx.cpp). Static, for the reason given in bgemm/window.h.

constexpr int COLUMNS = 16, STEP = 64;       ///< rows and columns of a tile; bytes of the reduction that it takes
constexpr int TILE_STORE = COLUMNS * STEP;   ///< bytes of a tile of weights
constexpr int64_t CHUNK_STEPS = 96;          ///< weights of so many steps, 192 KiB, stay in the second cache
constexpr int64_t BATCH = 64;                ///< tiles of rows that share the spread weights
constexpr int64_t BATCH_BYTES = 1 << 20;   ///< of their codes: the second cache of processors with tiles has 2 MiB

/// One step of the reduction: up to 64 bytes that lie side by side in a window of codes, and their weights.
struct Step {
  int64_t codes;  ///< offset from the first byte of the window
  int64_t pair;   ///< of the weights of a vector, counted over all taps
  int64_t pairs;  ///< at most eight
};

/// As for tables (plan.h), but a channel is a byte, and at least two tiles of pixels fit a strip.
static inline Shape shape_of_tiles(const abcfx_lut_args& args) {
  Shape shape = shape_of(args);
  const int64_t pixels = shape.reach_h * region_w(shape, 2 * COLUMNS), fit = STRIP_BYTES / (8 * pixels) / 8 * 8;
  const int64_t most = fit > 8 ? fit : 8, chunks = ceil_of(shape.pairs, most);  // whole words
  shape.chunk_pairs = chunks <= 1 ? (shape.pairs > 0 ? shape.pairs : 1) : ceil_of(ceil_of(shape.pairs, chunks), 8) * 8;
  shape.pixel_bytes = 8 * shape.chunk_pairs;
  shape.tile_rows = 2 * COLUMNS;
  return shape;
}

/// Codes of a batch of strips, and room behind them for what the last tile reads beside its pixels.
static inline int64_t code_bytes(const Shape& shape) {
  const int64_t strip = table_bytes(shape), batch = strip > BATCH_BYTES ? strip : BATCH_BYTES;
  return ceil_of(batch + COLUMNS * shape.step_w * shape.pixel_bytes + STEP, 64) * 64;
}

/// Codes, then the weights of a chunk of steps, then all steps of a window.
static inline int64_t tile_scratch_bytes(const abcfx_lut_args& args) {
  const Shape shape = shape_of_tiles(args);
  const int64_t steps = shape.taps * ceil_of(shape.pixel_bytes, STEP);
  return code_bytes(shape) + CHUNK_STEPS * 2 * TILE_STORE + steps * (int64_t)sizeof(Step);
}

namespace {

/// How the pixels of a strip fall into tiles of sixteen rows at one distance. Where lines of the region follow each other
/// at the distance of their outputs, tiles run through the pixels between them, which nobody wants; else each line begins
/// a tile. Whichever takes fewer.
struct TileWalk {
  int64_t count, line_rows, per_line;  ///< per_line 0: one run through all lines, line_rows apart

  TileWalk(const Shape& shape, const Strip& strip)
      : line_rows(region_w(shape, strip.width)), per_line(ceil_of(strip.width, COLUMNS)) {
    count = per_line * strip.lines;
    const int64_t run = ceil_of((strip.lines - 1) * line_rows + strip.width, COLUMNS);
    if (shape.step_h == shape.step_w && run < count) count = run, per_line = 0;
  }

  /// Line and pixel of the strip where tile `tile` begins.
  int64_t y(int64_t tile) const { return per_line ? tile / per_line : tile * COLUMNS / line_rows; }
  int64_t x(int64_t tile) const { return per_line ? tile % per_line * COLUMNS : tile * COLUMNS % line_rows; }
};

/// The next strip from `row` on, of at most BATCH tiles.
static inline Strip tiled_strip_at(const abcfx_bgemm_args& args, const Shape& shape, int64_t row) {
  Strip strip = strip_at(args, shape, row);
  if (strip.width > BATCH * COLUMNS) strip.width = BATCH * COLUMNS, strip.lines = 1;
  const int64_t most = BATCH / ceil_of(strip.width, COLUMNS);
  if (strip.lines > most) strip.lines = most;
  return strip;
}

/// Strips of one width, small images for instance, that share the spread weights.
struct Batch {
  int64_t count, rows, tiles;
  Strip strips[BATCH];

  Batch(const abcfx_bgemm_args& args, const Shape& shape, int64_t row) : count(0), rows(0), tiles(0) {
    for (int64_t bytes = 0; row + rows < args.row_end && count < BATCH; ++count) {
      const Strip strip = tiled_strip_at(args, shape, row + rows);
      const int64_t more = TileWalk(shape, strip).count;
      bytes += region_h(shape, strip.lines) * region_w(shape, strip.width) * shape.pixel_bytes;
      if (count > 0 && (strip.width != strips[0].width || tiles + more > BATCH || bytes > BATCH_BYTES)) break;
      strips[count] = strip;
      tiles += more;
      rows += strip.lines * strip.width;
    }
  }
};

}  // namespace
