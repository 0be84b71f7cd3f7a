#pragma once
#include "emit.cuh"
#include "store.cuh"

// The product for few rows: bound by reading the weights, which each warp streams once, 16 bytes a lane, for one output
// channel. ITEMS pairs (row, activation plane) are kept in registers beside them; the rows come from the first cache.
// 32-bit popcounts are 16 a cycle and multiprocessor, so the reading is the bound for about four pairs; past eight the
// matrix instructions are better. Needs no bit units: it runs on sm_100 too.
namespace abcfx_cuda {

/// counts[j] += popcount of the lane's part of a channel and a plane, with item j.
template <int ITEMS, int WORDS>
__device__ __forceinline__ void stream(const abcfx_cuda_bgemm_args& args, const Window& w, const uint64_t* weights,
                                       const uint64_t* const (&items)[ITEMS], int32_t (&counts)[ITEMS]) {
#pragma unroll 4
  for (uint32_t k = threadIdx.x % 32 * WORDS; k < w.reduction; k += 32 * WORDS) {
    const uint32_t at = w.taps == 1 ? k : word_offset(w, k);
    uint64_t x[WORDS];
    load_words<WORDS>(x, weights + k);
#pragma unroll
    for (int j = 0; j < ITEMS; ++j) {
      uint64_t y[WORDS];
      load_words<WORDS>(y, items[j] + at);
#pragma unroll
      for (int i = 0; i < WORDS; ++i) counts[j] += __popcll(XOR_FORM ? x[i] ^ y[i] : x[i] & y[i]);
    }
  }
}

template <int ITEMS>
__global__ void __launch_bounds__(256, ITEMS > 2 ? 2 : 4) gemv_kernel(const abcfx_cuda_bgemm_args args, const abcfx_cuda_emit_args emit,
                                                   bool wide) {
  const Window w = window_of(args);
  const uint32_t planes = (uint32_t)args.activation_bases, together = ITEMS / planes, lane = threadIdx.x % 32;
  const uint32_t blocks = (w.rows + together - 1) / together, group = blockIdx.y / blocks;
  const uint32_t first = blockIdx.y % blocks * together, col = blockIdx.x * 8 + threadIdx.x / 32;
  if (col >= w.cols) return;  // whole warps
  const uint64_t* items[ITEMS];
#pragma unroll
  for (uint32_t j = 0; j < ITEMS; ++j) {  // items past the last repeat it, and nobody reads their counts
    const uint32_t row = first + j / planes, real = row < w.rows && j < together * planes ? row : first;
    items[j] = args.a + row_offset(w, real, group) + (uint64_t)(j % planes) * w.plane_step;
  }
  float sum = 0.0f;  // lane r: of row first + r
  for (int64_t p = 0; p < args.weight_bases; ++p) {
    const uint64_t* weights = args.w + ((group * args.weight_bases + p) * w.cols + col) * w.reduction;
    int32_t counts[ITEMS] = {};
    if (wide) stream<ITEMS, 2>(args, w, weights, items, counts);
    else stream<ITEMS, 1>(args, w, weights, items, counts);
    float inner = 0.0f;
#pragma unroll
    for (uint32_t j = 0; j < ITEMS; ++j) {
#pragma unroll
      for (int far = 16; far; far /= 2) counts[j] += __shfl_xor_sync(~0u, counts[j], far);
      if (j / planes == lane && j < together * planes) inner = fmaf(args.beta[j % planes], (float)counts[j], inner);
    }
    sum = fmaf(args.alpha[(p * args.groups + group) * args.cols + col], inner, sum);
  }
  const uint32_t row = first + lane;
  if (lane >= together || row >= w.rows) return;
  const uint32_t o = group * w.cols + col;
  const float y = finish(args, emit, RowTerms(args, w, row, group), o, sum, sum_of_beta(args));
  if (emit.dst) emit_one(args, emit, w, row, o, y);
}

}  // namespace abcfx_cuda
