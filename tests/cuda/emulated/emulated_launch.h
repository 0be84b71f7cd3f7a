#pragma once
#include <math.h>

#include "abcfx/cuda.h"
#include "fibers.h"

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
using dim3 = Dim3;
inline void __syncthreads() { emulated::meet_block(); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline int __popcll(uint64_t x) { return __builtin_popcountll(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline unsigned atomicOr(unsigned* at, unsigned x) {
  const unsigned old = *at;
  *at |= x;
  return old;
}
inline int atomicAdd(int* at, int x) {
  const int old = *at;
  *at += x;
  return old;
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int far) {
  T got;
  emulated::exchange(value, [&](auto of) { got = of(emulated::lane() ^ (unsigned)far); });
  return got;
}
inline unsigned __ballot_sync(unsigned, int vote) {
  unsigned all = 0;
  emulated::exchange(vote, [&](auto of) {
    for (unsigned i = 0; i < 32; ++i) all |= (unsigned)(of(i) != 0) << i;
  });
  return all;
}

extern "C" __attribute__((visibility("default"))) inline int emulated_major = 9;  // the tests set it

namespace abcfx_cuda {

inline int emulated_multiprocessors = 1;
inline int multiprocessors() { return emulated_multiprocessors; }
inline int major_version() { return emulated_major; }

inline int zero(void* memory, int64_t bytes, void*) {
  memset(memory, 0, (size_t)bytes);
  return ABCFX_OK;
}

template <class... Args>
int launch(void (*kernel)(Args...), dim3 grid, unsigned threads, size_t shared, void*, Args... args) {
  gridDim = grid;
  blockDim = {threads};
  for (unsigned y = 0; y < grid.y; ++y) {
    for (unsigned x = 0; x < grid.x; ++x) {
      blockIdx = {x, y};
      emulated::run_block(threads, shared, [&] { kernel(args...); });
    }
  }
  return ABCFX_OK;
}

}  // namespace abcfx_cuda
