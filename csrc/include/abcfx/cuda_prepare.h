#pragma once
#include <stdint.h>

#include "abcfx/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/// More padding classes than this along an axis are refused: a window of k taps has at most 2 k of them.
#define ABCFX_CUDA_MAX_CLASSES 64

/// Everything that a product of abcfx/cuda.h reads besides planes, made on the device, in one launch: nothing is copied
/// from or to the host, so a captured graph stays right when scale, shift, alpha or bias change in place.
///
///   beta[q]              scale[0] 2^q / 2 (coded) or scale[q] (thermometer)
///   alpha_sum[o]         sum_p alpha[p][o]
///   inverse[0]           1 / next_scale[0], rounded to nearest: what abcfx_cuda_bgemm_emit wants
///   base[i classes_w + j][o] = bias[o] + (c + B) sum_{t valid in (i, j)} S[o][t]        column_base[o] = 0
///
/// where c and B = sum_q beta[q] are as in abcfx/padding.h. This is the sum of that header's base and of cuda.h's
/// column_base = B sum_t S[o][t], since depth alpha_sum[o] - 2 sum_p alpha[p][o] |w[p][o]| = sum_t S[o][t]: the
/// taps outside cancel, and no popcount of the weights is needed.
struct abcfx_cuda_prepare_args {
  const float *scale, *shift;  ///< f32[1] (coded) or f32[planes]
  const float* alpha;          ///< f32[weight_bases][outputs]
  const float* tap_sums;       ///< S, f32[outputs][kernel_h * kernel_w]
  const float* bias;           ///< f32[outputs], or NULL for zeros
  const float* next_scale;     ///< f32[1] of coded levels that the product emits, or NULL
  float* inverse;              ///< f32[1], or NULL
  float *beta, *alpha_sum, *column_base;  ///< f32[planes], f32[outputs], f32[outputs]
  float* base;                 ///< f32[classes_h * classes_w][outputs]
  int32_t *class_h, *class_w;  ///< int32[out_h], int32[out_w]: the class of each output position
  void* stream;
  int64_t levels;  ///< enum abcfx_levels
  int64_t planes, weight_bases, outputs, kernel_h, kernel_w, out_h, out_w, classes_h, classes_w;
  int64_t size_h, size_w, stride_h, stride_w, dilation_h, dilation_w, before_h, before_w;
  /// taps [first, last) of each class, as abcfx_padding_classes numbers them
  uint8_t first_h[ABCFX_CUDA_MAX_CLASSES], last_h[ABCFX_CUDA_MAX_CLASSES];
  uint8_t first_w[ABCFX_CUDA_MAX_CLASSES], last_w[ABCFX_CUDA_MAX_CLASSES];
};
/// ABCFX_UNSUPPORTED: more than ABCFX_CUDA_MAX_CLASSES classes along an axis, or 256 taps and more.
ABCFX_API int abcfx_cuda_prepare(const struct abcfx_cuda_prepare_args* args);

/// counts[i] = bits that are set in words [i * words, (i + 1) * words): the counts of abcfx_cuda_pack, from planes alone.
ABCFX_API int abcfx_cuda_count(const uint64_t* bits, int32_t* counts, int64_t rows, int64_t words, void* stream);

#ifdef __cplusplus
}
#endif
