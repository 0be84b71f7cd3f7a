#pragma once
#include <string.h>

#include "abcfx/adjoint.h"
#include "abcfx/window.h"

// What the adjoint variants share. Everything is static, for the reason given in bgemm/window.h.

static constexpr int64_t BLOCK = ABCFX_WINDOW_BLOCK, BLOCK_BYTES = BLOCK / 8, LANES = 8;
static_assert(ABCFX_ADJOINT_CHUNK % BLOCK == 0);

static inline int64_t chunks_of(const abcfx_adjoint_args& args) {
  return (args.count + ABCFX_ADJOINT_CHUNK - 1) / ABCFX_ADJOINT_CHUNK;
}

static inline bool valid(const abcfx_adjoint_args& args) {
  return args.planes >= 1 && args.planes <= ABCFX_MAX_BASES && args.count >= 0 && args.chunk_begin >= 0 &&
         args.chunk_end <= chunks_of(args) && (args.sample_scale == nullptr || args.sample > 0) &&
         (args.levels == ABCFX_CODED || args.levels == ABCFX_THERMOMETER);
}

/// One block, whole: `step` bytes lie between its planes of windows.
struct Block {
  const float* grad;
  const uint8_t* windows;
  float* dx;
  int64_t step;
};

/// Sums of a chunk, one for each lane of eight.
struct Sums {
  double lanes[2 * ABCFX_MAX_BASES][LANES] = {};

  void store(int64_t count, double* dst) const {
    for (int64_t i = 0; i < count; ++i) {
      dst[i] = 0;
      for (int64_t lane = 0; lane < LANES; ++lane) dst[i] += lanes[i][lane];
    }
  }
};

/// Kernel::coded(grad, inside, bit, dx, part)     part: of every lane, dx * (bit ? 1 : -1), g * above, g * not inside
/// Kernel::thermometer(grad, window, minus, beta, first, dx, part)   adds to dx unless it is the first plane;
///                                                part: g * (minus ? -1 : 1), g * window
template <class Kernel>
static void block_of(const abcfx_adjoint_args& args, const Block& block, Sums& sums) {
  if (args.levels == ABCFX_CODED) {
    const double top = (double)((1 << args.planes) - 1);
    float part[3][LANES];
    Kernel::coded(block.grad, block.windows, block.windows + block.step, block.dx, part);
    for (int64_t lane = 0; lane < LANES; ++lane) {
      sums.lanes[0][lane] += 0.5 * (double)part[0][lane] + top * (double)part[1][lane];
      sums.lanes[1][lane] += (double)part[2][lane];
    }
    return;
  }
  for (int64_t q = 0; q < args.planes; ++q) {
    const uint8_t* window = block.windows + q * block.step;
    float part[2][LANES];
    Kernel::thermometer(block.grad, window, window + args.planes * block.step, args.scale[q], q == 0, block.dx, part);
    for (int64_t lane = 0; lane < LANES; ++lane) {
      sums.lanes[q][lane] += (double)part[0][lane];
      sums.lanes[args.planes + q][lane] += (double)part[1][lane];
    }
  }
}

/// dst = grad * sample_scale of elements [begin, end), sample by sample.
static inline void scale_samples(const abcfx_adjoint_args& args, int64_t begin, int64_t end, float* dst) {
  for (int64_t at = begin; at < end;) {
    const int64_t sample = at / args.sample, next = (sample + 1) * args.sample;
    const float factor = args.sample_scale[sample];
    for (const int64_t stop = next < end ? next : end; at < stop; ++at) dst[at - begin] = args.grad[at] * factor;
  }
}

/// A block that is scaled or not whole is worked on in copies, so that kernels know one kind of block only.
template <class Kernel>
static void copied_block(const abcfx_adjoint_args& args, int64_t begin, int64_t end, Block block, Sums& sums) {
  const int64_t count = end - begin, bytes = (count + 7) / 8;
  const int64_t rows = args.levels == ABCFX_CODED ? 2 : 2 * args.planes;
  float grad[BLOCK] = {}, dx[BLOCK];
  uint8_t windows[2 * ABCFX_MAX_BASES * BLOCK_BYTES] = {};
  if (args.sample_scale) {
    scale_samples(args, begin, end, grad);
  } else {
    memcpy(grad, block.grad, sizeof(float) * (size_t)count);
  }
  if (count == BLOCK) return block_of<Kernel>(args, {grad, block.windows, block.dx, block.step}, sums);
  for (int64_t row = 0; row < rows; ++row) {
    memcpy(windows + row * BLOCK_BYTES, block.windows + row * block.step, (size_t)bytes);
  }
  block_of<Kernel>(args, {grad, windows, dx, BLOCK_BYTES}, sums);
  memcpy(block.dx, dx, sizeof(float) * (size_t)count);
}

template <class Kernel>
static int run(const abcfx_adjoint_args& args) {
  if (!valid(args)) return ABCFX_BAD_SHAPE;
  const int64_t step = (args.count + 7) / 8, row = args.levels == ABCFX_CODED ? 2 : 2 * args.planes;
  for (int64_t chunk = args.chunk_begin; chunk < args.chunk_end; ++chunk) {
    const int64_t first = chunk * ABCFX_ADJOINT_CHUNK, left = args.count - first;
    const int64_t last = first + (left < ABCFX_ADJOINT_CHUNK ? left : ABCFX_ADJOINT_CHUNK);
    Sums sums;
    for (int64_t begin = first; begin < last; begin += BLOCK) {
      const int64_t end = begin + BLOCK < last ? begin + BLOCK : last;
      const Block block = {args.grad + begin, args.windows + begin / 8, args.dx + begin, step};
      if (args.sample_scale || end - begin < BLOCK) {
        copied_block<Kernel>(args, begin, end, block, sums);
      } else {
        block_of<Kernel>(args, block, sums);
      }
    }
    sums.store(row, args.sums + chunk * row);
  }
  return ABCFX_OK;
}
