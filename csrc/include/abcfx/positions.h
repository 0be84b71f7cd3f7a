#pragma once
#include <stdint.h>

#include "abcfx/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/// A bit image read along its output positions, as packed weights: the operand of a weight gradient
/// (abcfx/ops/kernel_positions.py). Position r = (image n, output line y, output pixel x), x fastest.
///
///   bit r of column t * channels + c of plane q  =  bit c of plane q of image n at pixel
///       (y * stride_h + ky * dilation_h, x * stride_w + kx * dilation_w),      tap t = ky * kernel_w + kx
///
/// src     [images][padded_h][planes][padded_w][words], words = ceil(channels / 64), bits past the last channel are 0
/// dst     the layout of weights with `planes` bases, kernel_h * kernel_w * channels outputs, one tap and
///         images * out_h * out_w channels: of abcfx/bitweights.h if lanes is 8, of abcfx/lut.h if it is 32 or 64
/// counts  int32[planes][columns], set bits of each column: those of the range are added
/// Works on groups [group_begin, group_end) of 64 positions, which are the bytes of dst between 8 group_begin and
/// 8 group_end octets of every column: disjoint ranges write disjoint bytes.
struct abcfx_positions_args {
  const uint64_t* src;
  void* dst;
  int32_t* counts;
  void* scratch;  ///< abcfx_positions_scratch_bytes(args) bytes, aligned to 64, of this thread alone
  int64_t images, padded_h, padded_w, planes, channels;
  int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  int64_t out_h, out_w;
  int64_t lanes;
  int64_t group_begin, group_end;
};

typedef int (*abcfx_positions_fn)(const struct abcfx_positions_args* args);

ABCFX_API int64_t abcfx_positions_scratch_bytes(const struct abcfx_positions_args* args);

/// As in abcfx/bgemm.h.
ABCFX_API abcfx_positions_fn abcfx_positions_choose(void);
ABCFX_API abcfx_positions_fn abcfx_positions_find(const char* name);
ABCFX_API const char* abcfx_positions_chosen_name(void);
ABCFX_API const char* abcfx_positions_variant(int index);
ABCFX_API const char* abcfx_positions_missing(int index);

#ifdef __cplusplus
}
#endif
