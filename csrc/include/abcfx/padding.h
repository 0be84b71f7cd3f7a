#pragma once
#include <stdint.h>

#include "abcfx/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/// Zero padding that contributes exactly zero (docs/bits.md, "Zero padding is not +1").
///
/// Along one axis the taps of output position y that lie inside the image are one interval,
///
///   valid(y) = { t : 0 <= y * stride + t * dilation - before < size }
///
/// Positions with the same interval form a class. A class of the image is a pair of them.

/// Numbers the classes of one axis in order of appearance.
///   class_of  int32[out]            class of each output position
///   first, last  int32[out]         taps [first, last) of each class; as many entries are written as there are classes
/// Returns the number of classes.
ABCFX_API int64_t abcfx_padding_classes(int64_t out, int64_t size, int64_t taps, int64_t stride, int64_t dilation,
                                        int64_t before, int32_t* class_of, int32_t* first, int32_t* last);

/// base[i * classes_w + j][o] = bias[o] + c * sum_{t valid in (i, j)} S[o][t] - B * sum_{t not valid} S[o][t]
///
/// S = tap_sums f32[cols][kernel_h * kernel_w], the sum of the dequantized weights over the channels of each tap;
/// c = constant part of the activation levels; B = sum_q beta[q]: a padded pixel has bits 0, read as +1 in every plane.
struct abcfx_padding_args {
  const float* tap_sums;
  const float* bias;  ///< f32[cols], or NULL for zeros
  float* base;        ///< f32[classes_h * classes_w][cols]
  int64_t cols, kernel_h, kernel_w, classes_h, classes_w;
  const int32_t *first_h, *last_h, *first_w, *last_w;
  float constant;  ///< c
  float beta_sum;  ///< B
};

ABCFX_API int abcfx_padding_base(const struct abcfx_padding_args* args);

#ifdef __cplusplus
}
#endif
