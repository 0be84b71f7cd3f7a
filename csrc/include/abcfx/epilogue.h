#pragma once
#include <stddef.h>
#include <stdint.h>

#include "abcfx/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/// What follows a product while its values are still in the cache:
///
///   t = src[r][c] * gain[c] + offset[c]        two roundings, the build forbids contraction; t = src without gain
///   t = t + residual[r][c]                     if there is one
///   t = t > 0 ? t : t * slope[c]               if there is one (PReLU)
///   dst[r][c] = min(max(t, low), high)         a NaN stays a NaN
///
/// src, dst, residual   f32, rows *_step apart; dst may be src, or residual
/// gain, offset, slope  f32[cols] or NULL (gain and offset together)
/// low, high            -FLT_MAX and FLT_MAX, or beyond: no limit, so that infinities stay
/// Works on rows [row_begin, row_end).
struct abcfx_epilogue_args {
  const float* src;
  float* dst;
  const float* residual;
  const float* gain;
  const float* offset;
  const float* slope;
  float low, high;
  int64_t cols;
  int64_t src_step, dst_step, residual_step;
  int64_t row_begin, row_end;
};

typedef int (*abcfx_epilogue_fn)(const struct abcfx_epilogue_args* args);

/// As in abcfx/bgemm.h.
ABCFX_API abcfx_epilogue_fn abcfx_epilogue_choose(void);
ABCFX_API abcfx_epilogue_fn abcfx_epilogue_find(const char* name);
ABCFX_API const char* abcfx_epilogue_chosen_name(void);
ABCFX_API const char* abcfx_epilogue_variant(int index);
ABCFX_API const char* abcfx_epilogue_missing(int index);

#ifdef __cplusplus
}
#endif
