#pragma once
#include "emit.cuh"
#include "instructions.cuh"
#include "store.cuh"
#include "window.cuh"

// Implicit GEMM on bit planes. A block of 2 x 2 warps owns ROWS x COLS outputs; a stage of shared memory holds 512 bits
// of the reduction of ROWS windows in PLANES planes and of COLS channels in WEIGHTS planes:
//
//   stage:  [PLANES][ROWS][64 bytes]  [WEIGHTS][COLS][64 bytes]       four of them, three under way
//
// All PLANES x WEIGHTS products of an output meet in the registers of one thread. With more planes than that, the walk
// goes over blocks of planes, without a break in the copies; integers become f32 at the end of each block.
namespace abcfx_cuda {

/// Planes past the last one of a block that is not full read the last plane and have scale 0.
ABCFX_HD uint32_t at_most(uint32_t index, int64_t count) { return index < count ? index : (uint32_t)count - 1; }

struct Place {
  uint32_t row, col, group;  ///< first output row and column of the block
};

template <class T>
struct Step {
  uint32_t p, q, word;  ///< first weight plane, first activation plane, first word of the reduction
};

template <class T>
ABCFX_HD Step<T> step_at(const abcfx_cuda_bgemm_args& args, const Window& w, uint32_t step) {
  const uint32_t steps = (w.reduction + STEP_WORDS - 1) / STEP_WORDS, pass = step / steps;
  const uint32_t blocks = ((uint32_t)args.activation_bases + T::PLANES - 1) / T::PLANES;
  return {pass / blocks * T::WEIGHTS, pass % blocks * T::PLANES, (step - pass * steps) * STEP_WORDS};
}

/// One stage, WORDS words at a time: threads next to each other take what is next to each other in a row.
template <class T, int WORDS>
__device__ __forceinline__ void fill(const abcfx_cuda_bgemm_args& args, const Window& w, const Place& at,
                                     const Step<T>& step, const uint32_t* offsets, unsigned char* stage) {
  constexpr uint32_t PARTS = STEP_WORDS / WORDS, TOGETHER = T::THREADS / PARTS;
  const uint32_t part = threadIdx.x % PARTS, first = threadIdx.x / PARTS, k = step.word + part * WORDS;
  const bool inside = k < w.reduction;
  const uint64_t* a = args.a + (inside ? word_offset(w, k) : 0);
  const uint32_t unit = part * WORDS / 2, half = part * WORDS % 2 * 8;
#pragma unroll
  for (uint32_t i = 0; i < T::A_ROWS / TOGETHER; ++i) {
    const uint32_t line = first + i * TOGETHER, row = line % T::ROWS;
    const uint32_t plane = at_most(step.q + line / T::ROWS, args.activation_bases);
    const bool real = inside && at.row + row < w.rows;
    copy<WORDS>(stage + swizzled(line, unit) + half,
                real ? a + offsets[row] + (uint64_t)plane * w.plane_step : args.a, real);
  }
#pragma unroll
  for (uint32_t i = 0; i < T::B_ROWS / TOGETHER; ++i) {
    const uint32_t line = first + i * TOGETHER, col = at.col + line % T::COLS;
    const uint32_t plane = at_most(step.p + line / T::COLS, args.weight_bases);
    const bool real = inside && col < w.cols;
    const uint64_t row = (uint64_t)(at.group * (uint32_t)args.weight_bases + plane) * w.cols + col;
    copy<WORDS>(stage + swizzled(T::A_ROWS + line, unit) + half, real ? args.w + row * w.reduction + k : args.w, real);
  }
}

template <class T>
using Counts = int32_t[T::WEIGHTS][T::PLANES][T::ROW_BLOCKS][T::COL_BLOCKS][4];
template <class T>
using Sums = float[T::ROW_BLOCKS][T::COL_BLOCKS][4];

template <class T>
__device__ __forceinline__ void multiply_stage(const unsigned char* stage, Counts<T>& counts) {
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t row = warp / 2 * T::WARP_ROWS + a_row(lane), col = T::A_ROWS + warp % 2 * T::WARP_COLS + b_row(lane);
#pragma unroll
  for (uint32_t half = 0; half < 2; ++half) {
    uint32_t a[T::PLANES][T::ROW_BLOCKS][4];
#pragma unroll
    for (int q = 0; q < T::PLANES; ++q) {
#pragma unroll
      for (int i = 0; i < T::ROW_BLOCKS; ++i) {
        load_matrices(a[q][i], stage + swizzled(row + q * T::ROWS + i * 16, half * 2 + a_unit(lane)));
      }
    }
#pragma unroll
    for (int p = 0; p < T::WEIGHTS; ++p) {
#pragma unroll
      for (int j = 0; j < T::COL_BLOCKS; j += 2) {
        uint32_t b[4];
        load_matrices(b, stage + swizzled(col + p * T::COLS + j * 8, half * 2 + b_unit(lane)));
#pragma unroll
        for (int q = 0; q < T::PLANES; ++q) {
#pragma unroll
          for (int i = 0; i < T::ROW_BLOCKS; ++i) {
            multiply(counts[p][q][i][j], a[q][i], b);
            multiply(counts[p][q][i][j + 1], a[q][i], b + 2);
          }
        }
      }
    }
  }
}

/// sums += sum_p alpha[p][o] sum_q beta[q] counts, and counts = 0.
template <class T>
__device__ __forceinline__ void combine(const abcfx_cuda_bgemm_args& args, const Place& at, const Step<T>& step,
                                        Counts<T>& counts, Sums<T>& sums) {
  const uint32_t lane = threadIdx.x % 32, col = at.col + threadIdx.x / 32 % 2 * T::WARP_COLS;
#pragma unroll
  for (int p = 0; p < T::WEIGHTS; ++p) {
    const int64_t plane = step.p + p;
#pragma unroll
    for (int j = 0; j < T::COL_BLOCKS; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t o = col + j * 8 + c_col(lane, i);
        const bool real = plane < args.weight_bases && o < args.cols;
        const float alpha = real ? args.alpha[(plane * args.groups + at.group) * args.cols + o] : 0.0f;
#pragma unroll
        for (int r = 0; r < T::ROW_BLOCKS; ++r) {
          float inner = 0.0f;
#pragma unroll
          for (int q = 0; q < T::PLANES; ++q) {
            const float beta = step.q + q < args.activation_bases ? args.beta[step.q + q] : 0.0f;
            inner = fmaf(beta, (float)counts[p][q][r][j][i], inner);
            counts[p][q][r][j][i] = 0;
          }
          sums[r][j][i] = fmaf(alpha, inner, sums[r][j][i]);
        }
      }
    }
  }
}

template <class T>
__global__ void __launch_bounds__(T::THREADS, 2) bgemm_kernel(const abcfx_cuda_bgemm_args args,
                                                                const abcfx_cuda_emit_args emit, bool wide) {
#if defined(ABCFX_BIT_UNITS)
  unsigned char* shared = shared_memory();
  uint32_t* offsets = (uint32_t*)(shared + T::STAGES * T::STAGE_BYTES);
  const Window w = window_of(args);
  const uint32_t col_tiles = (w.cols + T::COLS - 1) / T::COLS;
  const Place at = {blockIdx.x * T::ROWS, blockIdx.y % col_tiles * T::COLS, blockIdx.y / col_tiles};
  for (uint32_t r = threadIdx.x; r < T::ROWS; r += T::THREADS) {
    offsets[r] = at.row + r < w.rows ? row_offset(w, at.row + r, at.group) : 0;
  }
  __syncthreads();
  const uint32_t steps = (w.reduction + STEP_WORDS - 1) / STEP_WORDS;
  const uint32_t passes = (((uint32_t)args.weight_bases + T::WEIGHTS - 1) / T::WEIGHTS) *
                          (((uint32_t)args.activation_bases + T::PLANES - 1) / T::PLANES);
  const uint32_t total = steps * passes;
  const auto begin = [&](uint32_t step) {
    if (step < total) {
      unsigned char* stage = shared + step % T::STAGES * T::STAGE_BYTES;
      const Step<T> now = step_at<T>(args, w, step);
      if (wide) fill<T, 2>(args, w, at, now, offsets, stage);
      else fill<T, 1>(args, w, at, now, offsets, stage);
    }
    commit_copies();  // also an empty group: the number that may be pending stays the same to the end
  };
  Counts<T> counts = {};
  Sums<T> sums = {};
#pragma unroll 1
  for (uint32_t step = 0; step < T::STAGES - 1; ++step) begin(step);
  uint32_t left = steps;
#pragma unroll 1
  for (uint32_t step = 0; step < total; ++step) {
    wait_copies<T::STAGES - 2>();
    __syncthreads();  // the copies of all threads are there, and all are done with the stage that is filled next
    begin(step + T::STAGES - 1);
    multiply_stage<T>(shared + step % T::STAGES * T::STAGE_BYTES, counts);
    if constexpr (!T::ONCE) {
      if (--left == 0) {
        combine<T>(args, at, step_at<T>(args, w, step), counts, sums);
        left = steps;
      }
    }
  }
  if constexpr (T::ONCE) combine<T>(args, at, Step<T>{0, 0, 0}, counts, sums);
  float* tile = nullptr;
  if (emit.dst) {
    static_assert(T::ROWS * (T::COLS + 1) * 4 <= T::STAGES * T::STAGE_BYTES);
    tile = (float*)shared;
    __syncthreads();  // the last stage is no longer read
  }
  store_block<T>(args, emit, w, at.row, at.col, at.group, sums, tile);
  if (emit.dst) {
    __syncthreads();
    emit_block<T>(args, emit, w, at.row, at.col, at.group, tile);
  }
#endif
}

}  // namespace abcfx_cuda
