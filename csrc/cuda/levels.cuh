#pragma once
#include "abcfx/pack.h"

namespace abcfx_cuda {

/// The quantizer of abcfx/pack.h: the code of a value, complemented, so that bit q is the bit of plane q. No fused
/// multiply-add, as the contract asks.
struct Levels {
  float shift, inverse, top, threshold[ABCFX_MAX_BASES];
  unsigned all;
  int planes;
  bool coded;

  /// inverse_: 1 / scale, rounded to nearest; thermometer levels do not read it.
  __device__ __forceinline__ Levels(int64_t kind, int64_t planes_, float inverse_, const float* shifts)
      : shift(0), inverse(inverse_), all((1u << planes_) - 1), planes((int)planes_), coded(kind == ABCFX_CODED) {
    top = (float)all;
    if (coded) shift = shifts[0];
    for (int q = 0; q < ABCFX_MAX_BASES; ++q) {
      threshold[q] = !coded && q < planes ? __fsub_rn(0.5f, shifts[q]) : 0.0f;
    }
  }

  __device__ __forceinline__ unsigned minus(float x) const {
    unsigned code = 0;
    if (coded) {
      const float t = __fmul_rn(__fsub_rn(x, shift), inverse), low = t > 0.0f ? t : 0.0f;
      code = (unsigned)rintf(low < top ? low : top);
    } else {
#pragma unroll
      for (int q = 0; q < ABCFX_MAX_BASES; ++q) code |= (unsigned)(q < planes && x >= threshold[q]) << q;
    }
    return ~code & all;
  }
};

}  // namespace abcfx_cuda
