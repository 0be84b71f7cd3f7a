#pragma once
#include <stdint.h>

#include "abcfx/pack.h"

#ifdef __cplusplus
extern "C" {
#endif

/// The straight-through adjoint of the activation quantizer from the bits of abcfx/window.h. With g = grad, or
/// grad * sample_scale[element / sample]:
///
///   coded        inside, bit = windows of planes 0 and 1
///                dx = g * inside        sums: g * slope, g * (not inside)
///                slope = bit - 0.5 inside, else (2^planes - 1) * bit
///   thermometer  window_q, minus_q = windows of planes q and planes + q
///                dx = sum over q, in order, of scale[q] * (g * window_q)
///                sums: g * (minus_q ? -1 : 1) of every q, then g * window_q of every q
///
/// grad, dx      f32[count]
/// windows       [2 or 2 planes][ceil(count / 8)], as abcfx/window.h writes them
/// sample_scale  f32[ceil(count / sample)] or NULL
/// sums          [ceil(count / ABCFX_ADJOINT_CHUNK)][2 (coded) or 2 planes], one row for each chunk
/// Works on chunks [chunk_begin, chunk_end): callers own the threads. A sum of a chunk is made in one fixed order, the
/// same in every variant: 32 products in f32 for each of 8 lanes, then f64. At most 32 * 2^-24 of the sum of magnitudes
/// is lost.
struct abcfx_adjoint_args {
  const float* grad;
  const uint8_t* windows;
  const float* scale;  ///< thermometer: [planes], what a gradient is multiplied with in each window; coded: not read
  const float* sample_scale;
  float* dx;
  double* sums;
  int64_t levels;  ///< enum abcfx_levels
  int64_t planes;  ///< 1 to 8
  int64_t count;
  int64_t sample;  ///< elements of one sample; 0 without sample_scale
  int64_t chunk_begin, chunk_end;
};

#define ABCFX_ADJOINT_CHUNK 16384

typedef int (*abcfx_adjoint_fn)(const struct abcfx_adjoint_args* args);

/// The gradients of scale and shift from the sums of all chunks, added in order:
///   coded        rate * (sum 0), rate * (sum 1) with rate = 1 / sqrt(max(count, 1) * (2^planes - 1))
///   thermometer  sum q, scale[q] * (sum planes + q)
/// dscale, dshift   f32[1] or f32[planes]
ABCFX_API int abcfx_adjoint_finish(const struct abcfx_adjoint_args* args, float* dscale, float* dshift);

/// As in abcfx/bgemm.h.
ABCFX_API abcfx_adjoint_fn abcfx_adjoint_choose(void);
ABCFX_API abcfx_adjoint_fn abcfx_adjoint_find(const char* name);
ABCFX_API const char* abcfx_adjoint_chosen_name(void);
ABCFX_API const char* abcfx_adjoint_variant(int index);
ABCFX_API const char* abcfx_adjoint_missing(int index);

#ifdef __cplusplus
}
#endif
