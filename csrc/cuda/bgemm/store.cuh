#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "../clip.cuh"
#include "instructions.cuh"
#include "window.cuh"

// From the sums of scaled popcounts to the outputs (abcfx/cuda.h).
namespace abcfx_cuda {

ABCFX_HD int64_t class_of(const abcfx_cuda_bgemm_args& args, const Window& w, uint32_t row) {
  const uint32_t line = row / w.out_w, x = row - line * w.out_w, y = line % w.out_h;
  return (args.class_h ? args.class_h[y] : 0) * args.classes_w + (args.class_w ? args.class_w[x] : 0);
}

__device__ __forceinline__ void store_value(const abcfx_cuda_bgemm_args& args, int64_t at, float y) {
  if (args.dst_type == ABCFX_F32) ((float*)args.dst)[at] = y;
  if (args.dst_type == ABCFX_F16) ((__half*)args.dst)[at] = __float2half_rn(y);
  if (args.dst_type == ABCFX_BF16) ((__nv_bfloat16*)args.dst)[at] = __float2bfloat16_rn(y);
}

/// XOR form (sm_75): the sum of xors has factor -2, and depth * B * alpha_sum is all that is left of the correction.
__device__ __forceinline__ float corrected(const abcfx_cuda_bgemm_args& args, float sum, float row_sum, float beta_sum,
                                           int64_t o) {
  if (XOR_FORM) return -2.0f * sum + (float)args.depth * beta_sum * args.alpha_sum[o];
  return 4.0f * sum - 2.0f * row_sum * args.alpha_sum[o] + args.column_base[o];
}

template <class T>
__device__ __forceinline__ void store(const abcfx_cuda_bgemm_args& args, const Window& w, uint32_t first_row,
                                      uint32_t first_col, uint32_t group,
                                      const float (&sums)[T::ROW_BLOCKS][T::COL_BLOCKS][4]) {
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t channels = args.groups * args.cols;
  float beta_sum = 0.0f;
  for (int64_t q = 0; q < args.activation_bases; ++q) beta_sum += args.beta[q];
#pragma unroll
  for (int r = 0; r < T::ROW_BLOCKS; ++r) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t row = first_row + warp / 2 * T::WARP_ROWS + r * 16 + c_row(lane, i);
      if (row >= w.rows) continue;
      const float* base = args.base + class_of(args, w, row) * channels;
      const float row_sum = args.row_sum[(int64_t)row * args.groups + group];
#pragma unroll
      for (int j = 0; j < T::COL_BLOCKS; ++j) {
        const uint32_t col = first_col + warp % 2 * T::WARP_COLS + j * 8 + c_col(lane, i);
        if (col >= w.cols) continue;
        const int64_t o = (int64_t)group * w.cols + col;
        float y = base[o] + corrected(args, sums[r][j][i], row_sum, beta_sum, o);
        if (args.gain) y = args.gain[o] * y + args.offset[o];
        store_value(args, (int64_t)row * channels + o, clip(y, args.low, args.high));
      }
    }
  }
}

}  // namespace abcfx_cuda
