#pragma once
#include <stddef.h>
#include <stdint.h>

#include "abcfx/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/// Binary convolution with the M x N scaled sum folded into the epilogue. A linear layer is the case of a
/// 1 x 1 kernel over an image of one line whose pixels are the rows.
///
///   dst[r][o] = base[class(r)][o] + sum_p alpha[p][o] * sum_q beta[q] * (depth - 2 * popcount(a[q][r] ^ w[p][o]))
///
/// Row r = (image n, output line y, output pixel x), x fastest. `popcount` runs over the kernel window: kernel_h *
/// kernel_w taps of `words` 64-bit words each. A set bit means -1; bits past the last channel are 0 in both operands,
/// so they cancel and `depth` counts values, not bits.
///
/// a      activation bit planes  [images][padded_h][activation_bases][padded_w][groups * words]
/// w      weight bit planes      [groups][ceil(cols / 8)][weight_bases][kernel_h * kernel_w * words][8]
///        eight output channels side by side; channels past `cols` are zero words
/// alpha  f32[weight_bases][groups * cols]     beta  f32[activation_bases]
/// base   f32[classes_h * classes_w][groups * cols]: bias, the constant part of the activations and the correction that
///        makes zero padding contribute exactly zero. Row r belongs to class class_h[y] * classes_w + class_w[x].
/// dst    f32[images * out_h * out_w][groups * cols], row stride = groups * cols
///
/// Popcounts are exact integers below 2^24, so every variant gives the same integers; only the order of the last
/// f32 sums may differ.
struct abcfx_bgemm_args {
  const uint64_t* a;
  const uint64_t* w;
  const float* alpha;
  const float* beta;
  const float* base;
  float* dst;
  const int32_t* class_h;  ///< [out_h], NULL if all are 0
  const int32_t* class_w;  ///< [out_w], NULL if all are 0
  int64_t classes_w;
  int64_t weight_bases, activation_bases;  ///< 1 to 8 each
  int64_t images, padded_h, padded_w;
  int64_t out_h, out_w;
  int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  int64_t groups;
  int64_t words;  ///< words per pixel, plane and group
  int64_t depth;  ///< values per window and group: kernel_h * kernel_w * channels of the group
  int64_t cols;   ///< output channels per group
  int64_t row_begin, row_end;      ///< rows to compute
  int64_t block_begin, block_end;  ///< blocks of eight output channels to compute, counted over all groups
};

/// Integers only, for tests: dst[r][q][p][o] = popcount(a[q][r] ^ w[p][o]), int32, o over groups * cols.
ABCFX_API int abcfx_bgemm_popcounts_reference(const struct abcfx_bgemm_args* args, int32_t* dst);

typedef int (*abcfx_bgemm_fn)(const struct abcfx_bgemm_args* args);

/// The best variant this machine runs, or the one that ABCFX_KERNEL names if it is in the list and runs here.
ABCFX_API abcfx_bgemm_fn abcfx_bgemm_choose(void);
/// The variant of this name, NULL if unknown or not runnable here.
ABCFX_API abcfx_bgemm_fn abcfx_bgemm_find(const char* name);
ABCFX_API const char* abcfx_bgemm_chosen_name(void);

/// The list, best first: the name of variant `index` (NULL past the end), and the first CPU feature it misses here
/// (NULL if it runs).
ABCFX_API const char* abcfx_bgemm_variant(int index);
ABCFX_API const char* abcfx_bgemm_missing(int index);

#ifdef __cplusplus
}
#endif
