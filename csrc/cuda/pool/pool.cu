// Max pooling of bit planes (abcfx/pool.h): a thread for each word of the padded result, in all planes.
#include "../launch.cuh"
#include "abcfx/pool.h"

namespace abcfx_cuda {
namespace {

/// The larger of two codes in each of 64 channels; bit 0 means +1. Coded levels: the first plane from the top that
/// differs decides.
__device__ __forceinline__ void keep_larger(uint64_t (&best)[ABCFX_MAX_BASES], const uint64_t (&other)[ABCFX_MAX_BASES],
                                            bool coded) {
  uint64_t larger = 0, undecided = ~(uint64_t)0;
#pragma unroll
  for (int q = ABCFX_MAX_BASES - 1; q >= 0; --q) {
    const uint64_t differ = best[q] ^ other[q];
    larger |= undecided & differ & best[q];  // best is -1 here, so other is +1
    undecided &= ~differ;
  }
#pragma unroll
  for (int q = 0; q < ABCFX_MAX_BASES; ++q) {
    best[q] = coded ? best[q] ^ ((best[q] ^ other[q]) & larger) : best[q] & other[q];
  }
}

__global__ void __launch_bounds__(256) pool_kernel(const abcfx_pool_args args, uint32_t all) {
  const uint32_t index = blockIdx.x * 256 + threadIdx.x, words = (uint32_t)args.words;
  if (index >= all) return;
  const uint32_t out_w = (uint32_t)(args.out_w + 2 * args.out_pad_w), out_h = (uint32_t)(args.out_h + 2 * args.out_pad_h);
  const uint32_t w = index % words, pixel = index / words, x = pixel % out_w, line = pixel / out_w;
  const uint32_t n = line / out_h, planes = (uint32_t)args.planes;
  const int64_t oy = (int64_t)(line % out_h) - args.out_pad_h, ox = (int64_t)x - args.out_pad_w;
  uint64_t best[ABCFX_MAX_BASES] = {};
  if (oy >= 0 && oy < args.out_h && ox >= 0 && ox < args.out_w) {
    const int64_t width = args.width + 2 * args.pad_w, step = width * args.words;
    const int64_t top = oy * args.stride_h - args.top, left = ox * args.stride_w - args.left;
#pragma unroll
    for (uint32_t q = 0; q < ABCFX_MAX_BASES; ++q) best[q] = q < planes ? ~(uint64_t)0 : 0;  // the least code
    for (int64_t iy = top > 0 ? top : 0; iy < top + args.kernel_h && iy < args.height; ++iy) {
      const int64_t from = n * (args.height + 2 * args.pad_h) + args.pad_h + iy;
      for (int64_t ix = left > 0 ? left : 0; ix < left + args.kernel_w && ix < args.width; ++ix) {
        uint64_t other[ABCFX_MAX_BASES];
#pragma unroll
        for (uint32_t q = 0; q < ABCFX_MAX_BASES; ++q) {
          other[q] = q < planes ? args.src[(from * planes + q) * step + (args.pad_w + ix) * args.words + w] : 0;
        }
        keep_larger(best, other, args.levels == ABCFX_CODED);
      }
    }
  }
#pragma unroll
  for (uint32_t q = 0; q < ABCFX_MAX_BASES; ++q) {
    if (q < planes) args.dst[(((int64_t)line * planes + q) * out_w + x) * args.words + w] = best[q];
  }
}

bool valid(const abcfx_pool_args& a) {
  return a.planes >= 1 && a.planes <= ABCFX_MAX_BASES && a.kernel_h >= 1 && a.kernel_w >= 1 && a.stride_h >= 1 &&
         a.stride_w >= 1 && a.top >= 0 && a.left >= 0 && a.top < a.kernel_h && a.left < a.kernel_w &&
         (a.out_h - 1) * a.stride_h - a.top < a.height && (a.out_w - 1) * a.stride_w - a.left < a.width &&
         (a.levels == ABCFX_CODED || a.levels == ABCFX_THERMOMETER);
}

}  // namespace
}  // namespace abcfx_cuda

int abcfx_cuda_pool(const abcfx_pool_args* args, void* stream) {
  using namespace abcfx_cuda;
  const abcfx_pool_args& t = *args;
  if (!valid(t)) return ABCFX_BAD_SHAPE;
  const int64_t all = t.images * (t.out_h + 2 * t.out_pad_h) * (t.out_w + 2 * t.out_pad_w) * t.words;
  if (all >= (int64_t)1 << 32) return ABCFX_UNSUPPORTED;
  return launch(pool_kernel, dim3((unsigned)((all + 255) / 256)), 256, 0, stream, t, (uint32_t)all);
}
