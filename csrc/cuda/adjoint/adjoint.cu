// The straight-through adjoint from window bits (abcfx/adjoint.h). A block takes a chunk; its sums are added in the order
// of the CPU's kernels, so that they are equal bit for bit: thread 8 k + b has lane b of the k-th 256 elements, adds 32
// products in f32; then f64, over k for each lane, over lanes last.
#include <math.h>

#include "../bgemm/instructions.cuh"
#include "../launch.cuh"
#include "abcfx/adjoint.h"
#include "abcfx/window.h"

namespace abcfx_cuda {
namespace {

constexpr int LANES = 8, CHUNK_THREADS = ABCFX_ADJOINT_CHUNK / ABCFX_WINDOW_BLOCK * LANES;

/// Sums of one thread: 3 (coded) or 2 planes (thermometer: of plane q at 2 q).
struct Parts {
  float sum[2 * ABCFX_MAX_BASES];
};

/// dx of one element. Factors of 0 and 1 are multiplied with, not selected by: an infinite gradient outside of a window
/// is a NaN, as in abcfx/quant/ste.py.
__device__ __forceinline__ float add_coded(float g, unsigned inside, unsigned bit, Parts& parts) {
  const float within = (float)inside, up = (float)bit;
  const float inner = __fmul_rn(g, within), outer = __fmul_rn(g, 1.0f - within);
  parts.sum[0] = __fadd_rn(parts.sum[0], __fmul_rn(inner, 2.0f * up - 1.0f));
  parts.sum[1] = __fadd_rn(parts.sum[1], __fmul_rn(outer, up));
  parts.sum[2] = __fadd_rn(parts.sum[2], outer);
  return inner;
}

__device__ __forceinline__ float add_thermometer(const abcfx_adjoint_args& args, const uint8_t* windows, int64_t step,
                                                 int b, float g, Parts& parts) {
  float dx = 0.0f;
#pragma unroll
  for (int q = 0; q < ABCFX_MAX_BASES; ++q) {
    if (q >= args.planes) continue;
    const float within = (float)(windows[q * step] >> b & 1);
    const float minus = (float)(windows[(args.planes + q) * step] >> b & 1), inner = __fmul_rn(g, within);
    dx = __fadd_rn(dx, __fmul_rn(args.scale[q], inner));
    parts.sum[2 * q] = __fadd_rn(parts.sum[2 * q], __fmul_rn(g, 1.0f - 2.0f * minus));
    parts.sum[2 * q + 1] = __fadd_rn(parts.sum[2 * q + 1], inner);
  }
  return dx;
}

/// Row `row` of the sums of one thread, as it enters the f64 sum.
__device__ __forceinline__ double row_of(const abcfx_adjoint_args& args, const float* parts, int row) {
  if (args.levels == ABCFX_THERMOMETER) {
    const int q = row % (int)args.planes, second = row / (int)args.planes;
    return (double)parts[(2 * q + second) * CHUNK_THREADS];
  }
  const double top = (double)((1 << args.planes) - 1);
  return row == 0 ? 0.5 * (double)parts[0] + top * (double)parts[CHUNK_THREADS] : (double)parts[2 * CHUNK_THREADS];
}

__global__ void __launch_bounds__(CHUNK_THREADS) adjoint_kernel(const abcfx_adjoint_args args) {
  float* all = (float*)shared_memory();  // [2 * ABCFX_MAX_BASES][CHUNK_THREADS]
  double* lanes = (double*)(all + 2 * ABCFX_MAX_BASES * CHUNK_THREADS);  // [2 * ABCFX_MAX_BASES][LANES]
  const int thread = threadIdx.x, b = thread % LANES;
  const int64_t first = (int64_t)blockIdx.x * ABCFX_ADJOINT_CHUNK + thread / LANES * ABCFX_WINDOW_BLOCK + b;
  const int64_t step = (args.count + 7) / 8;
  Parts parts = {};
#pragma unroll 4
  for (int i = 0; i < ABCFX_WINDOW_BLOCK / LANES; ++i) {
    const int64_t at = first + i * LANES;
    if (at >= args.count) break;
    const uint8_t* windows = args.windows + at / 8;
    float g = args.grad[at];
    if (args.sample_scale) g = __fmul_rn(g, args.sample_scale[(uint32_t)at / (uint32_t)args.sample]);
    args.dx[at] = args.levels == ABCFX_CODED ? add_coded(g, windows[0] >> b & 1, windows[step] >> b & 1, parts)
                                             : add_thermometer(args, windows, step, b, g, parts);
  }
#pragma unroll
  for (int i = 0; i < 2 * ABCFX_MAX_BASES; ++i) all[i * CHUNK_THREADS + thread] = parts.sum[i];
  __syncthreads();
  const int rows = args.levels == ABCFX_CODED ? 2 : 2 * (int)args.planes, row = thread / LANES;
  if (row < rows) {
    double sum = 0;
    for (int k = 0; k < CHUNK_THREADS / LANES; ++k) sum += row_of(args, all + k * LANES + b, row);
    lanes[thread] = sum;
  }
  __syncthreads();
  if (thread >= rows) return;
  double sum = 0;
  for (int lane = 0; lane < LANES; ++lane) sum += lanes[thread * LANES + lane];
  args.sums[(int64_t)blockIdx.x * rows + thread] = sum;
}

/// A thread for each gradient: adds the chunks in order.
__global__ void __launch_bounds__(32) adjoint_finish_kernel(const abcfx_adjoint_args args, double rate, float* dscale,
                                                            float* dshift) {
  const bool coded = args.levels == ABCFX_CODED;
  const int entries = coded ? 1 : (int)args.planes, row = threadIdx.x;
  if (row >= 2 * entries) return;
  double total = 0;
  const int64_t chunks = (args.count + ABCFX_ADJOINT_CHUNK - 1) / ABCFX_ADJOINT_CHUNK;
#pragma unroll 8
  for (int64_t chunk = 0; chunk < chunks; ++chunk) total += args.sums[chunk * 2 * entries + row];
  if (row < entries) dscale[row] = (float)(coded ? total * rate : total);
  else dshift[row - entries] = (float)(total * (coded ? rate : (double)args.scale[row - entries]));
}

bool valid(const abcfx_adjoint_args& t) {
  return t.planes >= 1 && t.planes <= ABCFX_MAX_BASES && t.count >= 0 &&
         (t.sample_scale == nullptr || t.sample > 0) &&
         (t.levels == ABCFX_CODED || t.levels == ABCFX_THERMOMETER);
}

}  // namespace
}  // namespace abcfx_cuda

int abcfx_cuda_adjoint(const abcfx_adjoint_args* args, void* stream) {
  using namespace abcfx_cuda;
  if (!valid(*args)) return ABCFX_BAD_SHAPE;
  if (args->count >= (int64_t)1 << 32 || args->sample >= (int64_t)1 << 32) return ABCFX_UNSUPPORTED;
  constexpr size_t shared = 2 * ABCFX_MAX_BASES * (CHUNK_THREADS * sizeof(float) + LANES * sizeof(double));
  const unsigned chunks = (unsigned)((args->count + ABCFX_ADJOINT_CHUNK - 1) / ABCFX_ADJOINT_CHUNK);
  return launch(adjoint_kernel, dim3(chunks), CHUNK_THREADS, shared, stream, *args);
}

int abcfx_cuda_adjoint_finish(const abcfx_adjoint_args* args, float* dscale, float* dshift, void* stream) {
  using namespace abcfx_cuda;
  if (!valid(*args)) return ABCFX_BAD_SHAPE;
  const double terms = (double)(args->count > 0 ? args->count : 1) * (double)((1 << args->planes) - 1);
  return launch(adjoint_finish_kernel, dim3(1), 32, 0, stream, *args, 1.0 / sqrt(terms), dscale, dshift);
}
