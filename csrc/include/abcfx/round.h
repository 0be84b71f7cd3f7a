#pragma once
#include <stdint.h>

#include "abcfx/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/// Stochastic rounding of gradients to integers of `planes` bits (abcfx/quant/gradients.py).
///
///   t = src[n][c][y][x] * gain[p][c] * inverse[n]                    two f32 products, in this order
///   u = (hash(seed, i) >> 8) * 2^-24                                 i = the place of the code in dst, modulo 2^32
///   planes >= 2:  k = floor(t) + (u < t - floor(t)),  kept in -2^(planes - 1) .. 2^(planes - 1) - 1
///   planes == 1:  k = u < (t + 1) / 2 ? 1 : -1
///
/// NaN gives the smallest code. Integers of eight bits are exact in bf16: dst holds the upper halves of the f32 codes.
/// A code depends on nothing but its place, so any range may be made by any thread.
///
/// src      f32, element (n, c, y, x) at n*stride_n + c*stride_c + y*stride_h + x*stride_w
/// gain     f32[gains][channels]
/// inverse  f32: of image n at n*inverse_step, 0 if all images share one
/// dst      bf16[images][height][width][gains][channels]
/// Works on pixels [pixel_begin, pixel_end) of the images * height * width. Fast where channels are contiguous; other
/// strides are copied, a tile at a time, into the first cache.
struct abcfx_round_args {
  const float* src;
  uint16_t* dst;
  const float* gain;
  const float* inverse;
  int64_t seed, planes, gains;
  int64_t images, channels, height, width;
  int64_t stride_n, stride_c, stride_h, stride_w;
  int64_t inverse_step;
  int64_t pixel_begin, pixel_end;
};

typedef int (*abcfx_round_fn)(const struct abcfx_round_args* args);

/// As in abcfx/bgemm.h.
ABCFX_API abcfx_round_fn abcfx_round_choose(void);
ABCFX_API abcfx_round_fn abcfx_round_find(const char* name);
ABCFX_API const char* abcfx_round_chosen_name(void);
ABCFX_API const char* abcfx_round_variant(int index);
ABCFX_API const char* abcfx_round_missing(int index);

#ifdef __cplusplus
}
#endif
