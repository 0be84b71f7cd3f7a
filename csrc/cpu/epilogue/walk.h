#pragma once
#include <float.h>
#include <math.h>

#include "abcfx/epilogue.h"

// The one loop of all variants, compiled in each with its own instructions. Everything is static, for the reason given
// in bgemm/window.h.

static inline bool valid(const abcfx_epilogue_args& args) {
  return args.src && args.dst && args.cols >= 0 && args.row_begin >= 0 && args.src_step >= args.cols &&
         args.dst_step >= args.cols && (!args.residual || args.residual_step >= args.cols) &&
         (args.gain == nullptr) == (args.offset == nullptr);
}

template <bool AFFINE, bool RESIDUAL, bool SLOPE, bool CLIP>
static void rows(const abcfx_epilogue_args& args) {
  const float low = args.low > -FLT_MAX ? args.low : -INFINITY, high = args.high < FLT_MAX ? args.high : INFINITY;
  for (int64_t r = args.row_begin; r < args.row_end; ++r) {
    const float* src = args.src + r * args.src_step;
    const float* residual = RESIDUAL ? args.residual + r * args.residual_step : nullptr;
    float* dst = args.dst + r * args.dst_step;
    // each value is read before its place is written, and no place is read twice: dst may be src or residual
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC ivdep
#endif
    for (int64_t c = 0; c < args.cols; ++c) {
      float t = src[c];
      if (AFFINE) t = t * args.gain[c] + args.offset[c];
      if (RESIDUAL) t = t + residual[c];
      if (SLOPE) t = t > 0.0f ? t : t * args.slope[c];
      if (CLIP) {
        t = t < low ? low : t;
        t = t > high ? high : t;
      }
      dst[c] = t;
    }
  }
}

template <bool AFFINE, bool RESIDUAL, bool SLOPE>
static void clipped(const abcfx_epilogue_args& args) {
  const bool clip = args.low > -FLT_MAX || args.high < FLT_MAX;
  clip ? rows<AFFINE, RESIDUAL, SLOPE, true>(args) : rows<AFFINE, RESIDUAL, SLOPE, false>(args);
}

template <bool AFFINE, bool RESIDUAL>
static void sloped(const abcfx_epilogue_args& args) {
  args.slope ? clipped<AFFINE, RESIDUAL, true>(args) : clipped<AFFINE, RESIDUAL, false>(args);
}

template <bool AFFINE>
static void added(const abcfx_epilogue_args& args) {
  args.residual ? sloped<AFFINE, true>(args) : sloped<AFFINE, false>(args);
}

static int epilogue(const abcfx_epilogue_args* args) {
  if (!valid(*args)) return ABCFX_BAD_SHAPE;
  args->gain ? added<true>(*args) : added<false>(*args);
  return ABCFX_OK;
}
