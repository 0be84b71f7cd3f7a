#pragma once
#include <stddef.h>
#include <stdint.h>

#include "abcfx/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum abcfx_hopper_type { ABCFX_HOPPER_F32 = 0, ABCFX_HOPPER_F16 = 1, ABCFX_HOPPER_BF16 = 2 };

/// Binary convolution or linear layer on the bit units of sm_90a, all weight_bases x activation_bases planes folded
/// into one output. With AND_pq = popcount(a[q][r] & w[p][o]) over the window of output r:
///
///   y[r][o] = base[class(r)][o] + column_base[o]
///             + 4 sum_pq alpha[p][o] beta[q] AND_pq - 2 row_sum[r][group] alpha_sum[o]
///   dst[r][o] = gain[o] * y + offset[o]              (gain NULL: dst = y)
///
/// which is sum_pq alpha beta (depth - 2 popcount(a ^ w)) + base, if the caller gives
///   alpha_sum[o] = sum_p alpha[p][o]                 B = sum_q beta[q]
///   row_sum[r][g] = sum_q beta[q] popcount(a[q][r])  column_base[o] = depth B alpha_sum[o]
///                                                                     - 2 B sum_p alpha[p][o] popcount(w[p][o])
///
/// a     [images][padded_h][activation_bases][padded_w][groups * words] u64; a linear layer has images = padded_h = 1
///       and its rows as padded_w
/// w     [groups][weight_bases][cols][kernel_h * kernel_w * words] u64
/// base  f32[classes_h * classes_w][groups * cols] or NULL; class(r) = class_h[y] * classes_w + class_w[x], NULL: 0
/// dst   [images * out_h * out_w][groups * cols] of `type`
/// All pointers are device memory; every one of them but a and w (16 bytes) needs the alignment of its type only.
struct abcfx_hopper_args {
  const uint64_t* a;
  const uint64_t* w;
  const float* alpha;      ///< [weight_bases][groups * cols]
  const float* beta;       ///< [activation_bases]
  const float* alpha_sum;  ///< [groups * cols]
  const float* row_sum;    ///< [images * out_h * out_w][groups]
  const float* column_base;
  const float* base;
  const int32_t* class_h;
  const int32_t* class_w;
  const float* gain;
  const float* offset;
  void* dst;
  int32_t type;
  int64_t classes_w;
  int64_t weight_bases, activation_bases;
  int64_t images, padded_h, padded_w;
  int64_t out_h, out_w;
  int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  int64_t groups, words, cols;
};

/// Enqueues the kernel on `stream` (a cudaStream_t). Does not synchronise and may be captured in a CUDA graph.
/// ABCFX_UNSUPPORTED: sizes TMA cannot address (odd `words`, unaligned operands, strides above 8) or a device that is
/// not sm_90: take the mma.sync kernel instead. ABCFX_BAD_SHAPE: sizes that contradict each other.
ABCFX_API int abcfx_hopper_bgemm(const struct abcfx_hopper_args* args, void* stream);

#ifdef __cplusplus
}
#endif
