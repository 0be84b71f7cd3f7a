#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "abcfx/pack.h"

// Numbers of the three types in memory, and the clip. What both products and the packs share.

__device__ __forceinline__ float wide(float x) { return x; }
__device__ __forceinline__ float wide(__half x) { return __half2float(x); }
__device__ __forceinline__ float wide(__nv_bfloat16 x) { return __bfloat162float(x); }

/// Eight values, read 16 bytes at a time; src is a multiple of 16 bytes.
template <class T>
__device__ __forceinline__ void load_eight(const T* src, float (&value)[8]) {
  constexpr int EACH = 16 / sizeof(T);
  struct alignas(16) Unit {
    T part[EACH];
  };
#pragma unroll
  for (int i = 0; i < 8; i += EACH) {
    const Unit unit = *(const Unit*)(src + i);
#pragma unroll
    for (int j = 0; j < EACH; ++j) value[i + j] = wide(unit.part[j]);
  }
}

__device__ __forceinline__ void store(float* at, float v) { *at = v; }
__device__ __forceinline__ void store(__half* at, float v) { *at = __float2half_rn(v); }
__device__ __forceinline__ void store(__nv_bfloat16* at, float v) { *at = __float2bfloat16_rn(v); }

/// The same with the type of enum abcfx_dtype.
__device__ __forceinline__ void store_as(int64_t type, void* dst, int64_t at, float v) {
  if (type == ABCFX_F32) store((float*)dst + at, v);
  if (type == ABCFX_F16) store((__half*)dst + at, v);
  if (type == ABCFX_BF16) store((__nv_bfloat16*)dst + at, v);
}
__device__ __forceinline__ float load_as(int64_t type, const void* src, int64_t at) {
  if (type == ABCFX_F16) return wide(((const __half*)src)[at]);
  if (type == ABCFX_BF16) return wide(((const __nv_bfloat16*)src)[at]);
  return ((const float*)src)[at];
}
/// v as it is read again after a store.
__device__ __forceinline__ float rounded_to(int64_t type, float v) {
  if (type == ABCFX_F16) return __half2float(__float2half_rn(v));
  if (type == ABCFX_BF16) return __bfloat162float(__float2bfloat16_rn(v));
  return v;
}

/// v within [low, high]. NaN stays NaN, as in torch; fminf and fmaxf would lose it.
__device__ __forceinline__ float clip(float v, float low, float high) {
  return v < low ? low : v > high ? high : v;
}
