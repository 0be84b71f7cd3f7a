// Bit planes of activations, one pass (planes.cuh): values are read 16 bytes at a time where they may be.
#include <float.h>
#include <math.h>

#include "../launch.cuh"
#include "../levels.cuh"
#include "planes.cuh"

namespace abcfx_cuda {
namespace {

__device__ __forceinline__ Levels levels_of(const abcfx_pack_args& args) {
  return {args.levels, args.planes, args.levels == ABCFX_CODED ? __fdiv_rn(1.0f, args.scale[0]) : 0.0f, args.shift};
}

/// Values as they lie in memory, with the affine of abcfx/pack.h.
template <class T>
struct Stored {
  abcfx_pack_args args;
  bool aligned;  ///< eight channels from a multiple of eight on begin at a multiple of 16 bytes

  explicit Stored(const abcfx_pack_args& t) : args(t) {
    const bool clips = t.low < t.high;
    args.low = clips && t.low > -FLT_MAX ? t.low : -INFINITY;
    args.high = clips && t.high < FLT_MAX ? t.high : INFINITY;
    const int64_t unit = 16 / sizeof(T);
    aligned = t.stride_c == 1 && (uintptr_t)t.src % 16 == 0 && t.stride_n % unit == 0 && t.stride_h % unit == 0 &&
              t.stride_w % unit == 0 && (t.groups == 1 || t.channels / t.groups % 8 == 0);
  }

  struct Reader {
    const abcfx_pack_args& args;
    bool aligned;
    Levels levels;

    __device__ __forceinline__ explicit Reader(const Stored& from)
        : args(from.args), aligned(from.aligned), levels(levels_of(from.args)) {}

    __device__ __forceinline__ unsigned minus(float x) const { return levels.minus(x); }

    __device__ __forceinline__ void eight(const Pixel& pixel, int64_t c, int many, float (&value)[8]) const {
      const T* src = (const T*)args.src + pixel.n * args.stride_n + pixel.y * args.stride_h +
                     pixel.from * args.stride_w;
      if (aligned && many == 8) {
        load_eight(src + c, value);
      } else {
#pragma unroll
        for (int b = 0; b < 8; ++b) value[b] = b < many ? wide(src[(c + b) * args.stride_c]) : 0.0f;
      }
      if (!args.gain) return;
      const float *gain = args.gain + c, *offset = args.offset + c;
#pragma unroll
      for (int b = 0; b < 8; ++b) {
        if (b < many) value[b] = __fadd_rn(__fmul_rn(value[b], gain[b]), offset[b]);
      }
#pragma unroll
      for (int b = 0; b < 8; ++b) {  // a NaN fails both comparisons; values past the last are not used
        value[b] = value[b] < args.low ? args.low : value[b] > args.high ? args.high : value[b];
      }
    }
  };
};

}  // namespace
}  // namespace abcfx_cuda

int abcfx_cuda_pack(const abcfx_pack_args* args, int32_t* counts, void* stream) {
  using namespace abcfx_cuda;
  if (!valid_image(*args)) return ABCFX_BAD_SHAPE;
  switch (args->dtype) {
    case ABCFX_F32: return pack_image(Stored<float>(*args), counts, stream);
    case ABCFX_F16: return pack_image(Stored<__half>(*args), counts, stream);
    case ABCFX_BF16: return pack_image(Stored<__nv_bfloat16>(*args), counts, stream);
    default: return ABCFX_BAD_SHAPE;
  }
}
