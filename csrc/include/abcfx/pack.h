#pragma once
#include <stddef.h>
#include <stdint.h>

#include "abcfx/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum abcfx_levels { ABCFX_CODED = 0, ABCFX_THERMOMETER = 1 };

enum abcfx_dtype { ABCFX_F32 = 0, ABCFX_BF16 = 1, ABCFX_F16 = 2 };

/// Quantize an image to bit planes, one pass, all planes, written into an already padded bit image.
///
///   value:        x, or clip(x * gain[c] + offset[c], low, high) (two f32 roundings) if there is an affine
///   coded:        k = clamp(rint((value - shift[0]) * (1 / scale[0])), 0, 2^planes - 1), plane q holds NOT bit q of k
///   thermometer:  plane q is -1 (bit set) unless value >= 0.5 - shift[q]
///
/// x is widened to f32 exactly. rint is round-half-to-even, the arithmetic is f32 in exactly this order (no fused
/// multiply-add), and a NaN compares false: it gives code 0 in both forms. So the planes equal those of
/// abcfx.quant.activations bit for bit.
///
/// src   `dtype`, element (n, c, y, x) at n*stride_n + c*stride_c + y*stride_h + x*stride_w
/// gain, offset   f32[channels], over all groups; both NULL: no affine
/// low, high      limits after the affine, which a NaN passes; without effect unless low < high, or
///             without an affine; +-FLT_MAX is no limit
/// dst   [images][height + top + bottom][planes][width + left + right][groups * words]
///       words = ceil(channels / groups / 64)
///       bit b of word i of a group is channel 64 i + b of that group; tail bits and padding pixels are 0
/// Works on lines [line_begin, line_end) of the images * (height + top + bottom) padded lines and, in each, on pixels
/// [pixel_begin, pixel_end) of `width`: callers own the threads. Padding goes with the range that touches it (left with
/// pixel 0, right with pixel `width`, a padded line with pixel 0), so disjoint ranges write disjoint words.
/// Fast where channels or pixels are contiguous; other strides are copied, a block at a time, into the first cache.
struct abcfx_pack_args {
  const void* src;
  uint64_t* dst;
  const float* scale;
  const float* shift;
  const float* gain;
  const float* offset;
  int64_t dtype;   ///< enum abcfx_dtype
  int64_t levels;  ///< enum abcfx_levels
  int64_t planes;  ///< 1 to 8
  int64_t images, channels, height, width;
  int64_t stride_n, stride_c, stride_h, stride_w;
  int64_t top, left, bottom, right;
  int64_t groups;
  int64_t line_begin, line_end;
  int64_t pixel_begin, pixel_end;
  float low, high;
};

typedef int (*abcfx_pack_fn)(const struct abcfx_pack_args* args);

/// As in abcfx/bgemm.h.
ABCFX_API abcfx_pack_fn abcfx_pack_choose(void);
ABCFX_API abcfx_pack_fn abcfx_pack_find(const char* name);
ABCFX_API const char* abcfx_pack_chosen_name(void);
ABCFX_API const char* abcfx_pack_variant(int index);
ABCFX_API const char* abcfx_pack_missing(int index);

#ifdef __cplusplus
}
#endif
