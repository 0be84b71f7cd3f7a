// What a product reads besides planes, made where the planes are: small kernels that save every copy from the host.
#include "abcfx/cuda_prepare.h"

#include "../launch.cuh"

namespace abcfx_cuda {
namespace {

constexpr unsigned THREADS = 128;

__device__ __forceinline__ float beta_of(const abcfx_cuda_prepare_args& t, int q) {
  return t.levels == ABCFX_CODED ? t.scale[0] * (float)(1 << q) * 0.5f : t.scale[q];
}

/// c + B: what a pixel adds whose planes are all +1.
__device__ __forceinline__ float top_level(const abcfx_cuda_prepare_args& t) {
  float sum = 0.0f;
  for (int q = 0; q < t.planes; ++q) sum += beta_of(t, q);
  const float half = t.scale[0] * (float)((1 << t.planes) - 1) * 0.5f;
  return t.levels == ABCFX_CODED ? t.shift[0] + half + sum : sum;
}

/// The number of the class whose taps are those of output position y.
__device__ __forceinline__ int32_t class_of(int64_t y, const uint8_t* first, const uint8_t* last, int64_t classes,
                                            int64_t size, int64_t taps, int64_t stride, int64_t dilation,
                                            int64_t before) {
  const int64_t origin = y * stride - before;
  int64_t begin = 0, end = taps;
  while (begin < end && origin + begin * dilation < 0) ++begin;
  while (end > begin && origin + (end - 1) * dilation >= size) --end;
  if (begin == end) begin = end = 0;
  for (int32_t i = 0; i < classes; ++i) {
    if (first[i] == begin && last[i] == end) return i;
  }
  return 0;
}

/// Line `class` of blocks: a class of the base table; the line after the last: what does not depend on classes.
__global__ void __launch_bounds__(THREADS) prepare_kernel(const abcfx_cuda_prepare_args t) {
  const int64_t thread = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (blockIdx.y < t.classes_h * t.classes_w) {
    if (thread >= t.outputs) return;
    const uint32_t i = blockIdx.y / (uint32_t)t.classes_w, j = blockIdx.y % (uint32_t)t.classes_w;
    float valid = 0.0f;
    for (int y = t.first_h[i]; y < t.last_h[i]; ++y) {
      for (int x = t.first_w[j]; x < t.last_w[j]; ++x) {
        valid += t.tap_sums[(thread * t.kernel_h + y) * t.kernel_w + x];
      }
    }
    t.base[blockIdx.y * t.outputs + thread] = top_level(t) * valid + (t.bias ? t.bias[thread] : 0.0f);
    return;
  }
  if (thread == 0 && t.inverse) *t.inverse = __fdiv_rn(1.0f, t.next_scale[0]);
  if (thread < t.planes) t.beta[thread] = beta_of(t, (int)thread);
  if (thread < t.outputs) {
    float sum = 0.0f;
    for (int64_t p = 0; p < t.weight_bases; ++p) sum += t.alpha[p * t.outputs + thread];
    t.alpha_sum[thread] = sum;
    t.column_base[thread] = 0.0f;
  }
  const int64_t all = (int64_t)gridDim.x * THREADS;
  for (int64_t y = thread; y < t.out_h; y += all) {
    t.class_h[y] = class_of(y, t.first_h, t.last_h, t.classes_h, t.size_h, t.kernel_h, t.stride_h, t.dilation_h,
                            t.before_h);
  }
  for (int64_t x = thread; x < t.out_w; x += all) {
    t.class_w[x] = class_of(x, t.first_w, t.last_w, t.classes_w, t.size_w, t.kernel_w, t.stride_w, t.dilation_w,
                            t.before_w);
  }
}

/// LANES threads a row, next to each other on its words; 256 threads are whole rows.
template <int LANES>
__global__ void __launch_bounds__(256) count_kernel(const uint64_t* bits, int32_t* counts, int64_t rows, int64_t words) {
  const int64_t row = ((int64_t)blockIdx.x * 256 + threadIdx.x) / LANES;
  int32_t count = 0;
  if (row < rows) {
    for (int64_t i = threadIdx.x % LANES; i < words; i += LANES) count += __popcll(bits[row * words + i]);
  }
#pragma unroll
  for (int far = LANES / 2; far > 0; far /= 2) count += __shfl_xor_sync(~0u, count, far);
  if (row < rows && threadIdx.x % LANES == 0) counts[row] = count;
}

template <int LANES>
int count(const uint64_t* bits, int32_t* counts, int64_t rows, int64_t words, void* stream) {
  const int64_t blocks = (rows * LANES + 255) / 256;
  if (blocks >= (int64_t)1 << 31) return ABCFX_UNSUPPORTED;
  return launch(count_kernel<LANES>, dim3((unsigned)blocks, 1), 256, 0, stream, bits, counts, rows, words);
}

}  // namespace
}  // namespace abcfx_cuda

int abcfx_cuda_prepare(const abcfx_cuda_prepare_args* args) {
  using namespace abcfx_cuda;
  const abcfx_cuda_prepare_args& t = *args;
  if (t.planes < 1 || t.planes > ABCFX_MAX_BASES || t.weight_bases < 1 || t.weight_bases > ABCFX_MAX_BASES ||
      t.outputs < 0 || t.kernel_h < 1 || t.kernel_w < 1 || t.out_h < 0 || t.out_w < 0 || t.classes_h < 0 ||
      t.classes_w < 0 || (t.levels != ABCFX_CODED && t.levels != ABCFX_THERMOMETER)) {
    return ABCFX_BAD_SHAPE;
  }
  if (t.classes_h > ABCFX_CUDA_MAX_CLASSES || t.classes_w > ABCFX_CUDA_MAX_CLASSES || t.kernel_h > 255 ||
      t.kernel_w > 255) {
    return ABCFX_UNSUPPORTED;
  }
  const int64_t columns = (t.outputs + THREADS - 1) / THREADS;
  const dim3 grid((unsigned)(columns > 0 ? columns : 1), (unsigned)(t.classes_h * t.classes_w + 1));
  return launch(prepare_kernel, grid, THREADS, 0, t.stream, t);
}

int abcfx_cuda_count(const uint64_t* bits, int32_t* counts, int64_t rows, int64_t words, void* stream) {
  using namespace abcfx_cuda;
  if (rows < 0 || words < 0) return ABCFX_BAD_SHAPE;
  return words >= 16 ? count<32>(bits, counts, rows, words, stream)
         : words > 2 ? count<4>(bits, counts, rows, words, stream)
                     : count<1>(bits, counts, rows, words, stream);
}
