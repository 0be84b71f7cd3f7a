// From bit planes back to values (abcfx/unpack.h): a thread for each value. Threads next to each other read the same
// words, from the first cache, and store next to each other.
#include "../launch.cuh"
#include "abcfx/unpack.h"

namespace abcfx_cuda {
namespace {

/// The value of a code, with the roundings of abcfx/unpack.h.
__device__ __forceinline__ float value_of(const abcfx_unpack_args& args, unsigned code) {
  if (args.levels == ABCFX_CODED) return __fadd_rn(__fmul_rn((float)code, args.scale[0]), args.shift[0]);
  float total = code & 1 ? args.scale[0] : -args.scale[0];
#pragma unroll
  for (int q = 1; q < ABCFX_MAX_BASES; ++q) {
    if (q < args.planes) total = __fadd_rn(total, code >> q & 1 ? args.scale[q] : -args.scale[q]);
  }
  return total;
}

__global__ void __launch_bounds__(256) unpack_kernel(const abcfx_unpack_args args, uint32_t all) {
  const uint32_t index = blockIdx.x * 256 + threadIdx.x, channels = (uint32_t)args.channels;
  if (index >= all) return;
  const uint32_t each = (uint32_t)args.groups * channels, pixel = index / each, o = index % each;
  const uint32_t width = (uint32_t)args.width, height = (uint32_t)args.height;
  const uint32_t x = pixel % width, line = pixel / width, y = line % height, n = line / height;
  const uint32_t words = (channels + 63) / 64, c = o % channels;
  const int64_t padded_w = args.left + args.width + args.right, step = padded_w * args.groups * words;
  const int64_t from = (int64_t)n * (args.top + args.height + args.bottom) + args.top + y;
  const uint64_t* src = args.src + from * args.planes * step + (args.left + x) * args.groups * words +
                        o / channels * words + c / 64;
  unsigned code = 0;
#pragma unroll
  for (int q = 0; q < ABCFX_MAX_BASES; ++q) {
    if (q < args.planes) code |= (unsigned)(~src[q * step] >> c % 64 & 1) << q;
  }
  args.dst[index] = value_of(args, code);
}

bool valid(const abcfx_unpack_args& t) {
  return t.planes >= 1 && t.planes <= ABCFX_MAX_BASES && t.groups >= 1 && t.channels >= 0 && t.images >= 0 &&
         t.height >= 0 && t.width >= 0 && t.top >= 0 && t.left >= 0 && t.bottom >= 0 && t.right >= 0 &&
         (t.levels == ABCFX_CODED || t.levels == ABCFX_THERMOMETER);
}

}  // namespace
}  // namespace abcfx_cuda

int abcfx_cuda_unpack(const abcfx_unpack_args* args, void* stream) {
  using namespace abcfx_cuda;
  const abcfx_unpack_args& t = *args;
  if (!valid(t)) return ABCFX_BAD_SHAPE;
  const int64_t all = t.images * t.height * t.width * t.groups * t.channels;
  if (all >= (int64_t)1 << 32) return ABCFX_UNSUPPORTED;
  return launch(unpack_kernel, dim3((unsigned)((all + 255) / 256)), 256, 0, stream, t, (uint32_t)all);
}
