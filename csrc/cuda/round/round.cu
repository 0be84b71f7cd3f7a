// Stochastic rounding of gradients (abcfx/round.h): to codes, or at once to their bit planes.
#include "../launch.cuh"
#include "../pack/planes.cuh"
#include "abcfx/round.h"

namespace abcfx_cuda {
namespace {

__device__ __forceinline__ uint32_t mixed(uint32_t x, uint32_t key = 0) {
  x = (x ^ x >> 16) * 0x7feb352du;
  x = (x ^ x >> 15 ^ key) * 0x846ca68bu;
  return x ^ x >> 16;
}

/// Codes as numbers: no fused multiply-add, as on the CPU.
struct Rounding {
  uint32_t first, second;
  float low, high;
  bool signs;

  /// The seed is read on the device where it is there: nobody waits for it.
  __device__ __forceinline__ Rounding(const abcfx_round_args& args, const int64_t* device_seed)
      : signs(args.planes == 1) {
    const uint64_t seed = (uint64_t)(device_seed ? *device_seed : args.seed);
    first = mixed((uint32_t)seed ^ mixed((uint32_t)(seed >> 32)));
    second = mixed(first + 0x9e3779b9u);
    low = signs ? -1.0f : -(float)(1 << (args.planes - 1));
    high = signs ? 1.0f : -low - 1.0f;
  }

  __device__ __forceinline__ float code(float grad, float gain, float inverse, uint32_t place) const {
    const float t = __fmul_rn(__fmul_rn(grad, gain), inverse);
    const float u = __fmul_rn((float)(mixed(place + first, second) >> 8), 0x1p-24f);
    if (signs) return u < __fmul_rn(__fadd_rn(t, 1.0f), 0.5f) ? 1.0f : -1.0f;
    const float floor = floorf(t), k = __fadd_rn(floor, u < __fsub_rn(t, floor) ? 1.0f : 0.0f);
    return k >= low ? (k < high ? k : high) : low;
  }
};

__device__ __forceinline__ int64_t element(const abcfx_round_args& args, int64_t n, int64_t y, int64_t x, int64_t c) {
  return n * args.stride_n + y * args.stride_h + x * args.stride_w + c * args.stride_c;
}

/// A thread for each gradient, channels fastest; it makes the codes of all gains.
__global__ void __launch_bounds__(256) round_kernel(const abcfx_round_args args, const int64_t* seed) {
  const Rounding rounding(args, seed);
  const uint32_t channels = (uint32_t)args.channels, width = (uint32_t)args.width, height = (uint32_t)args.height;
  const uint32_t index = blockIdx.x * 256 + threadIdx.x, pixel = index / channels, c = index % channels;
  if (pixel >= args.images * args.height * args.width) return;
  const uint32_t x = pixel % width, line = pixel / width, y = line % height, n = line / height;
  const float grad = args.src[element(args, n, y, x, c)], inverse = args.inverse[n * args.inverse_step];
  for (int64_t p = 0; p < args.gains; ++p) {
    const int64_t at = ((int64_t)pixel * args.gains + p) * channels + c;
    const float k = rounding.code(grad, args.gain[p * channels + c], inverse, (uint32_t)at);
    store((__nv_bfloat16*)args.dst + at, k);  // exact
  }
}

/// Codes as a source of planes: channel p * channels + c of the image is the code of gain p.
struct Rounded {
  abcfx_pack_args args;
  abcfx_round_args from;
  const int64_t* seed;

  struct Reader {
    const abcfx_round_args& from;
    int64_t channels;  ///< of the image
    Rounding rounding;

    __device__ __forceinline__ explicit Reader(const Rounded& source)
        : from(source.from), channels(source.args.channels), rounding(from, source.seed) {}

    __device__ __forceinline__ unsigned minus(float k) const {
      const int all = (1 << from.planes) - 1;
      return ~(from.planes == 1 ? ((int)k + 1) / 2 : (int)k + (1 << (from.planes - 1))) & (unsigned)all;
    }

    __device__ __forceinline__ void eight(const Pixel& pixel, int64_t first, int many, float (&value)[8]) const {
      const int64_t index = ((pixel.n * from.height + pixel.y) * from.width + pixel.from) * channels;
      const float inverse = from.inverse[pixel.n * from.inverse_step];
#pragma unroll
      for (int b = 0; b < 8; ++b) {
        if (b >= many) continue;
        const uint32_t at = (uint32_t)first + b, c = at % (uint32_t)from.channels;
        const float grad = from.src[element(from, pixel.n, pixel.y, pixel.from, c)];
        value[b] = rounding.code(grad, from.gain[at], inverse, (uint32_t)(index + at));
      }
    }
  };
};

bool valid(const abcfx_round_args& t) {
  return t.planes >= 1 && t.planes <= ABCFX_MAX_BASES && t.gains >= 1 && t.images >= 0 && t.channels >= 0 &&
         t.height >= 0 && t.width >= 0;
}

}  // namespace
}  // namespace abcfx_cuda

int abcfx_cuda_round(const abcfx_round_args* args, const int64_t* seed, void* stream) {
  using namespace abcfx_cuda;
  if (!valid(*args)) return ABCFX_BAD_SHAPE;
  const int64_t all = args->images * args->height * args->width * args->channels;
  if (all >= (int64_t)1 << 31) return ABCFX_UNSUPPORTED;
  return launch(round_kernel, dim3((unsigned)((all + 255) / 256)), 256, 0, stream, *args, seed);
}

int abcfx_cuda_round_pack(const abcfx_round_args* args, const int64_t* seed, const abcfx_pack_args* image,
                          int32_t* counts, void* stream) {
  using namespace abcfx_cuda;
  if (!valid(*args) || image->planes != args->planes || image->groups != 1 || image->levels != ABCFX_CODED ||
      image->images != args->images || image->height != args->height || image->width != args->width ||
      image->channels != args->gains * args->channels) {
    return ABCFX_BAD_SHAPE;
  }
  Rounded source = {*image, *args, seed};
  source.args.stride_c = args->stride_c;  // chooses the way through the image
  return pack_image(source, counts, stream);
}
