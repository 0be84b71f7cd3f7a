#pragma once

/// v within [low, high]. NaN stays NaN, as in torch; fminf and fmaxf would lose it.
__device__ __forceinline__ float clip(float v, float low, float high) {
  return v < low ? low : v > high ? high : v;
}
