#pragma once
#include "../pack/scalar.h"
#include "abcfx/window.h"

// What the window variants share. Everything is static, for the reason given in bgemm/window.h.

static constexpr int64_t BLOCK = ABCFX_WINDOW_BLOCK, BLOCK_BYTES = BLOCK / 8;

static inline bool valid(const abcfx_window_args& args) {
  return args.planes >= 1 && args.planes <= ABCFX_MAX_BASES && args.count >= 0 && args.block_begin >= 0 &&
         args.block_end <= (args.count + BLOCK - 1) / BLOCK &&
         (args.levels == ABCFX_CODED || (args.levels == ABCFX_THERMOMETER && args.edges)) &&
         (args.dtype == ABCFX_F32 || args.dtype == ABCFX_BF16 || args.dtype == ABCFX_F16);
}

struct Edges {
  float least, greatest;
};

/// Two planes from one block of values: bytes of the first go to `low`, of the second to `high`.
///   Kernel::coded(src, first element, o, 1 / scale, K, low, high)      inside; dithered residual, or above
///   Kernel::thermometer(src, {least, greatest} x of the window, 0.5 - v_q, low, high)    window; minus
template <class Kernel, class T>
static void block_of(const abcfx_window_args& args, int64_t block, const T* src, uint8_t* dst, int64_t step) {
  if (args.levels == ABCFX_CODED) {
    const float top = (float)((1 << args.planes) - 1);
    Kernel::coded(src, (uint32_t)(block * BLOCK), args.shift[0], 1.0f / args.scale[0], top, dst, dst + step);
    return;
  }
  for (int64_t q = 0; q < args.planes; ++q) {
    const Edges edges = {args.edges[q], args.edges[args.planes + q]};
    Kernel::thermometer(src, edges, 0.5f - args.shift[q], dst + q * step, dst + (args.planes + q) * step);
  }
}

/// The last block, if it is not whole: of copies, so that kernels know one length only.
template <class Kernel, class T>
static void last_block(const abcfx_window_args& args, int64_t block, const T* src, uint8_t* dst, int64_t step) {
  const int64_t count = args.count - block * BLOCK, bytes = (count + 7) / 8;
  const int64_t rows = args.levels == ABCFX_CODED ? 2 : 2 * args.planes;
  T values[BLOCK] = {};
  uint8_t planes[2 * ABCFX_MAX_BASES * BLOCK_BYTES];
  memcpy(values, src, sizeof(T) * (size_t)count);
  block_of<Kernel>(args, block, values, planes, BLOCK_BYTES);
  for (int64_t row = 0; row < rows; ++row) {
    uint8_t* plane = planes + row * BLOCK_BYTES;
    if (count % 8) plane[bytes - 1] &= (uint8_t)((1 << count % 8) - 1);
    memcpy(dst + row * step, plane, (size_t)bytes);
  }
}

template <class Kernel, class T>
static int walk(const abcfx_window_args& args) {
  const int64_t step = (args.count + 7) / 8;
  for (int64_t block = args.block_begin; block < args.block_end; ++block) {
    const T* src = (const T*)args.src + block * BLOCK;
    uint8_t* dst = args.dst + block * BLOCK_BYTES;
    const bool whole = (block + 1) * BLOCK <= args.count;
    whole ? block_of<Kernel>(args, block, src, dst, step) : last_block<Kernel>(args, block, src, dst, step);
  }
  return ABCFX_OK;
}

template <class Kernel>
static int run(const abcfx_window_args& args) {
  if (!valid(args)) return ABCFX_BAD_SHAPE;
  if (args.dtype == ABCFX_BF16) return walk<Kernel, Bf16>(args);
  if (args.dtype == ABCFX_F16) return walk<Kernel, F16>(args);
  return walk<Kernel, F32>(args);
}
