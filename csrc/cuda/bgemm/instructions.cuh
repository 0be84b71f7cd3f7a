#pragma once
// The instructions that C++ has no name for. Without nvcc the tests give functions of the same names.
#if !defined(__CUDACC__)
#include "emulated_instructions.h"
#else
#include <stdint.h>

namespace abcfx_cuda {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr bool XOR_FORM = true;  // sm_75 has xor.popc only
#else
constexpr bool XOR_FORM = false;
#endif
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ < 1000
#define ABCFX_BIT_UNITS 1
#endif

extern __shared__ __align__(16) unsigned char abcfx_shared[];
__device__ __forceinline__ unsigned char* shared_memory() { return abcfx_shared; }

__device__ __forceinline__ uint32_t address_of(const void* shared) { return (uint32_t)__cvta_generic_to_shared(shared); }

/// Copies 8 * WORDS bytes to shared memory, or zeros if not `real`; from sm_80 on without waiting for them.
template <int WORDS>
__device__ __forceinline__ void copy(void* shared, const uint64_t* src, bool real) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  const int bytes = real ? 8 * WORDS : 0;  // what is not read is filled with zeros
  if constexpr (WORDS == 2) {              // .cg: past the first cache, only for 16 bytes
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address_of(shared)), "l"(src), "r"(bytes) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(address_of(shared)), "l"(src), "r"(bytes) : "memory");
  }
#else
  if constexpr (WORDS == 2) {
    *(ulonglong2*)shared = real ? *(const ulonglong2*)src : make_ulonglong2(0, 0);
  } else {
    *(uint64_t*)shared = real ? *src : 0;
  }
#endif
}

/// Reads 8 * WORDS bytes that no kernel writes while this one runs.
template <int WORDS>
__device__ __forceinline__ void load_words(uint64_t d[WORDS], const uint64_t* src) {
  if constexpr (WORDS == 2) {
    const ulonglong2 both = __ldg((const ulonglong2*)src);
    d[0] = both.x, d[1] = both.y;
  } else {
    d[0] = __ldg((const unsigned long long*)src);
  }
}

__device__ __forceinline__ void commit_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/// Waits until at most PENDING of the groups committed last are under way.
template <int PENDING>
__device__ __forceinline__ void wait_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

/// Four 8 x 128-bit matrices: lanes 8 i to 8 i + 7 name the rows of matrix i; register i holds bits 32 (lane % 4) of
/// row lane / 4 of it.
__device__ __forceinline__ void load_matrices(uint32_t d[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(address_of(row)) : "memory");
}

/// c += popcount(a & b) (sm_75: a ^ b) of a 16 x 256 and an 8 x 256 bit matrix.
__device__ __forceinline__ void multiply(int32_t c[4], const uint32_t a[4], const uint32_t b[2]) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 1000
  (void)c, (void)a, (void)b;
#elif __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%0, %1, %2, %3};"
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  for (int i = 0; i < 4; ++i) {  // rows 0-7 and 8-15, by the two halves of the 256 bits
    asm volatile("mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32.xor.popc {%0, %1}, {%2}, {%3}, {%0, %1};"
                 : "+r"(c[i % 2 * 2]), "+r"(c[i % 2 * 2 + 1]) : "r"(a[i]), "r"(b[i / 2]));
  }
#endif
}

}  // namespace abcfx_cuda
#endif
