#pragma once
#include <stdint.h>

#include "abcfx/adjoint.h"
#include "abcfx/pack.h"
#include "abcfx/pool.h"
#include "abcfx/positions.h"
#include "abcfx/round.h"
#include "abcfx/status.h"
#include "abcfx/unpack.h"
#include "abcfx/window.h"

#ifdef __cplusplus
extern "C" {
#endif

/// What the functions below return besides ABCFX_OK, ABCFX_BAD_SHAPE and ABCFX_UNSUPPORTED.
enum abcfx_cuda_status {
  ABCFX_NO_BIT_UNITS = 16,  ///< the device has no bit matrix instructions (sm_100 and later): take a dense product
  ABCFX_CUDA_FAILED = 17,   ///< cudaGetLastError says why
};

/// GEMV streams the weights for few rows; it is chosen for up to eight pairs (row, activation plane), and needs no bit
/// matrix instructions, so it runs on sm_100 too.
enum abcfx_cuda_kernel { ABCFX_CUDA_CHOOSE = 0, ABCFX_CUDA_LARGE = 1, ABCFX_CUDA_SMALL = 2, ABCFX_CUDA_GEMV = 3 };

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

/// The product and what follows it, then quantized for the next layer. Each of gain, residual, slope may be absent:
///
///   t[r][o] = gain[o] * y + offset[o] + residual[r][o]
///   v[r][o] = clip(t > 0 ? t : t * slope[o], low, high)                      rounded to dst_type
///   x[r][o] = clip(v * emit.gain[o] + emit.offset[o], emit.low, emit.high)   two roundings, as in abcfx/pack.h
///   dst, counts = what abcfx_cuda_pack makes of x, bit for bit (no affine of its own, padding included)
///
/// v is stored in args->dst, unless that is NULL. `residual` has the layout and the type of args->dst and may be the
/// same memory. Without planes (planes 0, dst NULL) v is all that is made.
struct abcfx_cuda_emit_args {
  const void* residual;  ///< NULL: none
  uint64_t* dst;         ///< [images][top + out_h + bottom][planes][left + out_w + right][groups * words], next layer's
  int32_t* counts;       ///< [images][top + out_h + bottom][planes][left + out_w + right][groups], or NULL
  const float* inverse;  ///< coded: f32[1], 1 / scale of abcfx/pack.h, so that no kernel has to divide
  const float* shift;    ///< as in abcfx/pack.h
  const float* slope;    ///< f32[channels], or NULL
  const float *gain, *offset;  ///< f32[channels], both or none
  float low, high;             ///< -infinity and infinity: no clip
  int64_t levels;  ///< enum abcfx_levels
  int64_t planes;  ///< 1 to 8; 0: none
  int64_t groups;  ///< of the next layer
  int64_t top, left, bottom, right;
};
ABCFX_API int abcfx_cuda_bgemm_emit(const struct abcfx_cuda_bgemm_args* args, const struct abcfx_cuda_emit_args* emit);

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

/// abcfx/round.h on device memory: the same codes, all pixels; the range of pixels is not read.
/// seed  on the device, read there; NULL: args->seed
ABCFX_API int abcfx_cuda_round(const struct abcfx_round_args* args, const int64_t* seed, void* stream);

/// The codes of abcfx_cuda_round as bit planes, without storing them: as if abcfx_cuda_pack read them as an image of
/// gains * channels channels with the coded levels of abcfx/quant/gradients.py, scale 1 and shift -2^(planes - 1), or
/// 2 and -1 for one plane. Places, and so random numbers, are those of the codes in round's dst.
/// image  dst, planes, sizes and padding; src, strides, scale and shift, gain and offset are not read; one group, coded
ABCFX_API int abcfx_cuda_round_pack(const struct abcfx_round_args* args, const int64_t* seed,
                                    const struct abcfx_pack_args* image, int32_t* counts, void* stream);

/// abcfx/positions.h on device memory, as an operand of abcfx_cuda_bgemm, with `words` = ceil(images * out_h * out_w / 64):
/// dst     [planes][kernel_h * kernel_w * channels][words]
///         w of `planes` weight bases and that many cols; for 1 x 1 kernels also a, of one line of `channels` pixels
/// counts  as there, but zeroed here, and NULL if not wanted; scratch, lanes and the range of groups are not read
ABCFX_API int abcfx_cuda_positions(const struct abcfx_positions_args* args, void* stream);

/// abcfx/window.h and abcfx/adjoint.h on device memory: the same bits, dx and sums, those bit for bit too; the ranges of
/// blocks and chunks are not read. args->sums is device memory, dscale and dshift as well.
ABCFX_API int abcfx_cuda_window(const struct abcfx_window_args* args, void* stream);
ABCFX_API int abcfx_cuda_adjoint(const struct abcfx_adjoint_args* args, void* stream);
ABCFX_API int abcfx_cuda_adjoint_finish(const struct abcfx_adjoint_args* args, float* dscale, float* dshift, void* stream);

/// abcfx/unpack.h and abcfx/pool.h on device memory, bit for bit; the ranges of lines and pixels are not read.
ABCFX_API int abcfx_cuda_unpack(const struct abcfx_unpack_args* args, void* stream);
ABCFX_API int abcfx_cuda_pool(const struct abcfx_pool_args* args, void* stream);

#ifdef __cplusplus
}
#endif
