#pragma once
// Launching a kernel. Without nvcc the tests give a `launch` that runs it on the CPU.
#if !defined(__CUDACC__)
#include "emulated_launch.h"
#else
#include <cuda_runtime.h>

#include "abcfx/cuda.h"

namespace abcfx_cuda {

/// Enqueues on a stream of the current device; more than 48 KiB of shared memory must be asked for.
template <class... Args>
int launch(void (*kernel)(Args...), dim3 grid, unsigned threads, size_t shared, void* stream, Args... args) {
  if (grid.x == 0 || grid.y == 0) return ABCFX_OK;
  if (shared > 48 << 10 && cudaFuncSetAttribute((const void*)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                (int)shared) != cudaSuccess) {
    return ABCFX_CUDA_FAILED;
  }
  kernel<<<grid, threads, shared, (cudaStream_t)stream>>>(args...);
  return cudaGetLastError() == cudaSuccess ? (int)ABCFX_OK : (int)ABCFX_CUDA_FAILED;
}

inline int zero(void* memory, int64_t bytes, void* stream) {
  const bool done = bytes == 0 || cudaMemsetAsync(memory, 0, (size_t)bytes, (cudaStream_t)stream) == cudaSuccess;
  return done ? (int)ABCFX_OK : (int)ABCFX_CUDA_FAILED;
}

/// Of the current device; 0 if there is none.
inline int device_attribute(cudaDeviceAttr what) {
  int device = 0, value = 0;
  if (cudaGetDevice(&device) != cudaSuccess || cudaDeviceGetAttribute(&value, what, device) != cudaSuccess) return 0;
  return value;
}
inline int multiprocessors() { return device_attribute(cudaDevAttrMultiProcessorCount); }
inline int major_version() { return device_attribute(cudaDevAttrComputeCapabilityMajor); }

}  // namespace abcfx_cuda
#endif
