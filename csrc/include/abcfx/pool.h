#pragma once
#include <stddef.h>
#include <stdint.h>

#include "abcfx/pack.h"

#ifdef __cplusplus
extern "C" {
#endif

/// Max pooling of a padded bit image: the planes of the largest value of each window.
///
/// Quantizing is monotone, so the code of a maximum is the maximum of the codes. Plane bits are 0 where the plane is +1:
///
///   thermometer  every plane by itself: +1 if it is +1 anywhere, so the AND of its bits
///   coded        codes are compared as integers, 64 channels at a time: the first plane from the top that differs decides
///
/// src  [images][height + 2 pad_h][planes][width + 2 pad_w][words]          as abcfx/pack.h writes it
/// dst  [images][out_h + 2 out_pad_h][planes][out_w + 2 out_pad_w][words]   its padding is written too
/// Windows of kernel_h x kernel_w pixels, stride_h and stride_w apart, start at -top and -left; what lies outside the
/// image does not count, and every window must hold a pixel of it.
/// Works on lines [line_begin, line_end) of the images * out_h output lines; padded lines above and below an image go
/// with its first and last line.
struct abcfx_pool_args {
  const uint64_t* src;
  uint64_t* dst;
  int64_t levels;  ///< enum abcfx_levels
  int64_t planes;  ///< 1 to 8
  int64_t images, height, width, words;
  int64_t pad_h, pad_w;
  int64_t kernel_h, kernel_w, stride_h, stride_w, top, left;
  int64_t out_h, out_w, out_pad_h, out_pad_w;
  int64_t line_begin, line_end;
};

ABCFX_API int abcfx_pool(const struct abcfx_pool_args* args);

#ifdef __cplusplus
}
#endif
