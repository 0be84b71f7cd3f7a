#pragma once
#include "../values.cuh"
#include "instructions.cuh"
#include "window.cuh"

// From the sums of scaled popcounts to the outputs (abcfx/cuda.h). Every fused multiply-add is written out: all kernels
// and both kinds of output, floats and bits, then see the same numbers.
namespace abcfx_cuda {

ABCFX_HD int64_t class_of(const abcfx_cuda_bgemm_args& args, const Window& w, uint32_t row) {
  const uint32_t line = row / w.out_w, x = row - line * w.out_w, y = line % w.out_h;
  return (args.class_h ? args.class_h[y] : 0) * args.classes_w + (args.class_w ? args.class_w[x] : 0);
}

__device__ __forceinline__ float sum_of_beta(const abcfx_cuda_bgemm_args& args) {
  float sum = 0.0f;
  for (int64_t q = 0; q < args.activation_bases; ++q) sum += args.beta[q];
  return sum;
}

/// XOR form (sm_75): the sum of xors has factor -2, and depth * B * alpha_sum is all that is left of the correction.
__device__ __forceinline__ float corrected(const abcfx_cuda_bgemm_args& args, float sum, float row_sum, float beta_sum,
                                           int64_t o) {
  if (XOR_FORM) return fmaf((float)args.depth * beta_sum, args.alpha_sum[o], -2.0f * sum);
  return fmaf(-2.0f * row_sum, args.alpha_sum[o], 4.0f * sum) + args.column_base[o];
}

/// What all outputs of a row share.
struct RowTerms {
  const float* base;
  int64_t first;  ///< element of channel 0 in dst
  float row_sum;

  __device__ __forceinline__ RowTerms(const abcfx_cuda_bgemm_args& args, const Window& w, uint32_t row, uint32_t group) {
    const int64_t channels = args.groups * args.cols;
    base = args.base + class_of(args, w, row) * channels;
    first = (int64_t)row * channels;
    row_sum = args.row_sum[(int64_t)row * args.groups + group];
  }
};

/// The output of channel o, as it is stored: stores it if there is a dst, and returns it.
__device__ __forceinline__ float finish(const abcfx_cuda_bgemm_args& args, const abcfx_cuda_emit_args& emit,
                                        const RowTerms& row, int64_t o, float sum, float beta_sum) {
  float y = row.base[o] + corrected(args, sum, row.row_sum, beta_sum, o);
  if (args.gain) y = fmaf(args.gain[o], y, args.offset[o]);
  if (emit.residual) y += load_as(args.dst_type, emit.residual, row.first + o);
  if (emit.slope) y = y > 0.0f ? y : __fmul_rn(y, emit.slope[o]);
  y = rounded_to(args.dst_type, clip(y, args.low, args.high));
  if (args.dst) store_as(args.dst_type, args.dst, row.first + o, y);
  return y;
}

/// All outputs of a block; with a `tile`, f32 [ROWS][COLS + 1] in shared memory, they go there too.
template <class T>
__device__ __forceinline__ void store_block(const abcfx_cuda_bgemm_args& args, const abcfx_cuda_emit_args& emit,
                                            const Window& w, uint32_t first_row, uint32_t first_col, uint32_t group,
                                            const float (&sums)[T::ROW_BLOCKS][T::COL_BLOCKS][4], float* tile) {
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const float beta_sum = sum_of_beta(args);
#pragma unroll
  for (int r = 0; r < T::ROW_BLOCKS; ++r) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t row = warp / 2 * T::WARP_ROWS + r * 16 + c_row(lane, i);
      if (first_row + row >= w.rows) continue;
      const RowTerms terms(args, w, first_row + row, group);
#pragma unroll
      for (int j = 0; j < T::COL_BLOCKS; ++j) {
        const uint32_t col = warp % 2 * T::WARP_COLS + j * 8 + c_col(lane, i);
        if (first_col + col >= w.cols) continue;
        const float y = finish(args, emit, terms, (int64_t)group * w.cols + first_col + col, sums[r][j][i], beta_sum);
        if (tile) tile[row * (T::COLS + 1) + col] = y;
      }
    }
  }
}

}  // namespace abcfx_cuda
