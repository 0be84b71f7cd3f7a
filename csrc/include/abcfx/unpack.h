#pragma once
#include <stdint.h>

#include "abcfx/pack.h"

#ifdef __cplusplus
extern "C" {
#endif

/// The quantized values of a padded bit image, as abcfx/pack.h writes it.
///
///   coded        dst = (float)k * scale[0] + shift[0], two roundings; bit q of k is NOT the bit of plane q
///   thermometer  dst = sum over q, in order, of scale[q] * (bit of plane q ? -1 : 1)
///
/// So the values equal those of abcfx.quant.activations.quantize bit for bit.
///
/// src   [images][height + top + bottom][planes][width + left + right][groups * ceil(channels / 64)]
/// dst   f32 [images][height][width][groups * channels]
/// channels   of one group
/// Works on lines [line_begin, line_end) of the images * height lines of dst and, in each, on pixels [pixel_begin,
/// pixel_end): callers own the threads.
struct abcfx_unpack_args {
  const uint64_t* src;
  float* dst;
  const float* scale;
  const float* shift;
  int64_t levels;  ///< enum abcfx_levels
  int64_t planes;  ///< 1 to 8
  int64_t images, channels, height, width;
  int64_t top, left, bottom, right;
  int64_t groups;
  int64_t line_begin, line_end;
  int64_t pixel_begin, pixel_end;
};

typedef int (*abcfx_unpack_fn)(const struct abcfx_unpack_args* args);

/// As in abcfx/bgemm.h.
ABCFX_API abcfx_unpack_fn abcfx_unpack_choose(void);
ABCFX_API abcfx_unpack_fn abcfx_unpack_find(const char* name);
ABCFX_API const char* abcfx_unpack_chosen_name(void);
ABCFX_API const char* abcfx_unpack_variant(int index);
ABCFX_API const char* abcfx_unpack_missing(int index);

#ifdef __cplusplus
}
#endif
