#pragma once
#include <stdint.h>

#include "abcfx/pack.h"
#include "abcfx/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/// What the functions below return besides ABCFX_OK, ABCFX_BAD_SHAPE and ABCFX_UNSUPPORTED.
enum abcfx_cuda_status {
  ABCFX_NO_BIT_UNITS = 16,  ///< the device has no bit matrix instructions (sm_100 and later): take a dense product
  ABCFX_CUDA_FAILED = 17,   ///< cudaGetLastError says why
};

enum abcfx_cuda_kernel { ABCFX_CUDA_CHOOSE = 0, ABCFX_CUDA_LARGE = 1, ABCFX_CUDA_SMALL = 2 };

/// The product of abcfx/bgemm.h on a GPU, in its AND form. With AND_pq = popcount(a[q][r] & w[p][o]) over the window,
///
///   y[r][o] = base[class(r)][o] + column_base[o] + 4 sum_p alpha[p][o] sum_q beta[q] AND_pq - 2 row_sum[r][g] alpha_sum[o]
///   dst[r][o] = clip(gain[o] * y + offset[o], low, high)        gain NULL: no affine
///
/// equals base + sum_pq alpha beta (depth - 2 popcount(a ^ w)), because popcount(a ^ w) = |a| + |w| - 2 AND, with
///   alpha_sum[o] = sum_p alpha[p][o]                B = sum_q beta[q]
///   row_sum[r][g] = sum_q beta[q] |a[q][r]|         abcfx_cuda_row_sums, from the counts that the pack writes
///   column_base[o] = depth B alpha_sum[o] - 2 B sum_p alpha[p][o] |w[p][o]|
/// Tail bits, padded pixels and rows past the end are zeros and add nothing to AND; the correction of zero padding is in
/// `base`, as on the CPU (abcfx/padding.h).
///
/// a    [images][padded_h][activation_bases][padded_w][groups * words]        as on the CPU
/// w    [groups][weight_bases][cols][kernel_h * kernel_w * words]              K-major: abcfx_cuda_pack_weights
/// base f32[classes_h * classes_w][groups * cols]
/// dst  dst_type[images * out_h * out_w][groups * cols]
/// All pointers are device memory. Popcounts are exact below 2^23 bits a window (checked: ABCFX_UNSUPPORTED above).
struct abcfx_cuda_bgemm_args {
  const uint64_t *a, *w;
  const float *alpha, *beta, *alpha_sum, *row_sum, *column_base, *base;
  const float *gain, *offset;       ///< f32[groups * cols], both or none
  const int32_t *class_h, *class_w;  ///< [out_h], [out_w]; NULL: all 0
  void* dst;
  void* stream;      ///< cudaStream_t
  float low, high;   ///< -infinity and infinity: no clip; 0 and infinity: ReLU
  int64_t dst_type;  ///< enum abcfx_dtype
  int64_t kernel;    ///< enum abcfx_cuda_kernel
  int64_t classes_w;
  int64_t weight_bases, activation_bases;  ///< 1 to 8 each
  int64_t images, padded_h, padded_w, out_h, out_w;
  int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  int64_t groups, words, depth, cols;
};
ABCFX_API int abcfx_cuda_bgemm(const struct abcfx_cuda_bgemm_args* args);

/// row_sum[r][g] = sum_q beta[q] * sum over the window of counts[n][y][q][x][g]; counts from abcfx_cuda_pack. The sizes
/// and `beta`, `stream` of the product; its other pointers are not read.
ABCFX_API int abcfx_cuda_row_sums(const struct abcfx_cuda_bgemm_args* args, const int32_t* counts, float* row_sum);

/// abcfx/pack.h on device memory: same planes, bit for bit. All lines and pixels; the four ranges are not read.
/// counts  int32[images][padded_h][planes][padded_w][groups], the bits that are set in each; NULL: not written
ABCFX_API int abcfx_cuda_pack(const struct abcfx_pack_args* args, int32_t* counts, void* stream);

/// src     int8, -1 or +1   [bases][groups * cols][taps][channels]
/// dst     [groups][bases][cols][taps * words], bit set where src < 0, tail bits 0
/// counts  int32[bases][groups * cols]: |w|
struct abcfx_cuda_weights_args {
  const int8_t* src;
  uint64_t* dst;
  int32_t* counts;
  void* stream;
  int64_t bases, groups, cols, taps, channels;
};
ABCFX_API int abcfx_cuda_pack_weights(const struct abcfx_cuda_weights_args* args);

#ifdef __cplusplus
}
#endif
