#pragma once
// The 16-bit types of CUDA as gcc's own, which round the same way.
using __half = _Float16;
inline __half __float2half_rn(float x) { return (__half)x; }
inline float __half2float(__half x) { return (float)x; }
