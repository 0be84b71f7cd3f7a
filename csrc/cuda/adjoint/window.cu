// Window bits of the straight-through adjoint (abcfx/window.h): a thread makes a byte of each plane from eight values.
#include "../launch.cuh"
#include "../values.cuh"
#include "abcfx/window.h"

namespace abcfx_cuda {
namespace {

/// csrc/cpu/window/dither.h.
__device__ __forceinline__ float dither(uint32_t h) {
  h = (h ^ h >> 16) * 0x7feb352du;
  h = (h ^ h >> 15) * 0x846ca68bu;
  return __fmul_rn((float)((h ^ h >> 16) >> 8), 0x1p-24f);
}

__device__ __forceinline__ void coded_bytes(const abcfx_window_args& args, const float (&x)[8], int many, uint32_t byte,
                                            int64_t bytes) {
  const float shift = args.shift[0], inverse = __fdiv_rn(1.0f, args.scale[0]), top = (float)((1 << args.planes) - 1);
  unsigned inside = 0, bit = 0;
#pragma unroll
  for (int b = 0; b < 8; ++b) {
    if (b >= many) continue;
    const float t = __fmul_rn(__fsub_rn(x[b], shift), inverse);
    const bool within = t >= 0.0f && t <= top;
    const bool up = __fadd_rn(__fsub_rn(rintf(t), t), 0.5f) > dither(8 * byte + b);
    inside |= (unsigned)within << b;
    bit |= (unsigned)(within ? up : t > top) << b;
  }
  args.dst[byte] = (uint8_t)inside;
  args.dst[bytes + byte] = (uint8_t)bit;
}

__device__ __forceinline__ void thermometer_bytes(const abcfx_window_args& args, const float (&x)[8], int many,
                                                  uint32_t byte, int64_t bytes) {
#pragma unroll 1
  for (int64_t q = 0; q < args.planes; ++q) {
    const float least = args.edges[q], greatest = args.edges[args.planes + q];
    const float threshold = __fsub_rn(0.5f, args.shift[q]);
    unsigned window = 0, minus = 0;
#pragma unroll
    for (int b = 0; b < 8; ++b) {
      if (b >= many) continue;
      window |= (unsigned)(x[b] >= least && x[b] <= greatest) << b;
      minus |= (unsigned)!(x[b] >= threshold) << b;
    }
    args.dst[q * bytes + byte] = (uint8_t)window;
    args.dst[(args.planes + q) * bytes + byte] = (uint8_t)minus;
  }
}

template <class T>
__global__ void __launch_bounds__(256) window_kernel(const abcfx_window_args args, bool aligned) {
  const int64_t bytes = (args.count + 7) / 8;
  const uint32_t byte = blockIdx.x * 256 + threadIdx.x;
  if (byte >= bytes) return;
  const int64_t left = args.count - 8 * (int64_t)byte;
  const int many = left < 8 ? (int)left : 8;
  const T* src = (const T*)args.src + 8 * (int64_t)byte;
  float x[8];
  if (aligned && many == 8) {
    load_eight(src, x);
  } else {
#pragma unroll
    for (int b = 0; b < 8; ++b) x[b] = b < many ? wide(src[b]) : 0.0f;
  }
  if (args.levels == ABCFX_CODED) coded_bytes(args, x, many, byte, bytes);
  else thermometer_bytes(args, x, many, byte, bytes);
}

template <class T>
int windows(const abcfx_window_args& args, void* stream) {
  const int64_t bytes = (args.count + 7) / 8;
  return launch(window_kernel<T>, dim3((unsigned)((bytes + 255) / 256)), 256, 0, stream, args,
                (uintptr_t)args.src % 16 == 0);
}

}  // namespace
}  // namespace abcfx_cuda

int abcfx_cuda_window(const abcfx_window_args* args, void* stream) {
  using namespace abcfx_cuda;
  if (args->planes < 1 || args->planes > ABCFX_MAX_BASES || args->count < 0 ||
      !(args->levels == ABCFX_CODED || (args->levels == ABCFX_THERMOMETER && args->edges))) {
    return ABCFX_BAD_SHAPE;
  }
  if (args->count >= (int64_t)1 << 34) return ABCFX_UNSUPPORTED;
  switch (args->dtype) {
    case ABCFX_F32: return windows<float>(*args, stream);
    case ABCFX_F16: return windows<__half>(*args, stream);
    case ABCFX_BF16: return windows<__nv_bfloat16>(*args, stream);
    default: return ABCFX_BAD_SHAPE;
  }
}
