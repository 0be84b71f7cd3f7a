#pragma once
#include <cuda.h>
#include <stdint.h>

/// The instructions of sm_90a that CUDA C++ has no name for, one function each.
namespace abcfx_hopper {

__device__ __forceinline__ uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

__device__ __forceinline__ void barrier_init(uint64_t* bar, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(arrivals) : "memory");
}
/// The copy engine must see the barriers that ordinary stores initialised.
__device__ __forceinline__ void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void barrier_arrive(uint64_t* bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(bar)) : "memory");
}
__device__ __forceinline__ void barrier_expect(uint64_t* bar, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(bar)), "r"(bytes)
               : "memory");
}
/// try_wait sleeps in hardware for a while, so the loop seldom turns.
__device__ __forceinline__ void barrier_wait(uint64_t* bar, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra ready;\n"
      "bra again;\n"
      "ready:\n}" ::"r"(shared_address(bar)),
      "r"(parity)
      : "memory");
}

/// One box of a five-dimensional tensor map into shared memory; coordinates past the ends read as zero, and the
/// barrier counts the bytes of the whole box all the same.
__device__ __forceinline__ void load_box(void* dst, const CUtensorMap* map, uint64_t* bar, const int (&at)[5]) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(shared_address(dst)),
      "l"(map), "r"(shared_address(bar)), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4])
      : "memory");
}
__device__ __forceinline__ void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

template <int registers>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}
template <int registers>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int pending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

/// Keeps the compiler from reading accumulators before the wait that stands above the call.
template <int count>
__device__ __forceinline__ void keep_after_wait(uint32_t (&d)[count]) {
#pragma unroll
  for (int i = 0; i < count; ++i) asm volatile("" : "+r"(d[i])::"memory");
}

/// d (64 x cols, s32, in registers) = popcount(a & b) summed over 256 bits, plus d if `add`.
template <int cols>
struct Wgmma;

#define ABCFX_T10(d) \
  "%" #d "0, %" #d "1, %" #d "2, %" #d "3, %" #d "4, %" #d "5, %" #d "6, %" #d "7, %" #d "8, %" #d "9, "
#define ABCFX_T40 ABCFX_T10() ABCFX_T10(1) ABCFX_T10(2) ABCFX_T10(3)
#define ABCFX_R8(i)                                                                                              \
  "+r"(d[i]), "+r"(d[i + 1]), "+r"(d[i + 2]), "+r"(d[i + 3]), "+r"(d[i + 4]), "+r"(d[i + 5]), "+r"(d[i + 6]), \
      "+r"(d[i + 7])
#define ABCFX_R48 ABCFX_R8(0), ABCFX_R8(8), ABCFX_R8(16), ABCFX_R8(24), ABCFX_R8(32), ABCFX_R8(40)
#define ABCFX_R64 ABCFX_R48, ABCFX_R8(48), ABCFX_R8(56)
#define ABCFX_R128                                                                                               \
  ABCFX_R64, ABCFX_R8(64), ABCFX_R8(72), ABCFX_R8(80), ABCFX_R8(88), ABCFX_R8(96), ABCFX_R8(104), ABCFX_R8(112), \
      ABCFX_R8(120)
#define ABCFX_WGMMA(cols, registers, list, a_, b_, add_)                                                         \
  template <>                                                                                                    \
  struct Wgmma<cols> {                                                                                           \
    static __device__ __forceinline__ void issue(uint32_t (&d)[cols / 2], uint64_t a, uint64_t b, int add) {     \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " add_ ", 0;\n"                                             \
                   "wgmma.mma_async.sync.aligned.m64n" #cols "k256.s32.b1.b1.and.popc {" list "}, " a_ ", " b_   \
                   ", p;\n}"                                                                                     \
                   : registers                                                                                   \
                   : "l"(a), "l"(b), "r"(add));                                                                  \
    }                                                                                                            \
  };

ABCFX_WGMMA(96, ABCFX_R48, ABCFX_T40 "%40, %41, %42, %43, %44, %45, %46, %47", "%48", "%49", "%50")
ABCFX_WGMMA(128, ABCFX_R64, ABCFX_T40 ABCFX_T10(4) ABCFX_T10(5) "%60, %61, %62, %63", "%64", "%65", "%66")
ABCFX_WGMMA(256, ABCFX_R128,
            ABCFX_T40 ABCFX_T10(4) ABCFX_T10(5) ABCFX_T10(6) ABCFX_T10(7) ABCFX_T10(8) ABCFX_T10(9) ABCFX_T10(10)
                ABCFX_T10(11) "%120, %121, %122, %123, %124, %125, %126, %127",
            "%128", "%129", "%130")

}  // namespace abcfx_hopper
