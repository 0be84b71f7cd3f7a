#pragma once
#include "plan.h"
#include "ptx.cuh"

/// Warp-specialised persistent binary GEMM.
///
///   warpgroup 0        one thread keeps `stages` buffers full by TMA
///   warpgroups 1, 2    64 rows each: N wgmmas a step (one per activation plane), each 64 x (M * cols)
///
/// B holds the M weight planes of `cols` columns one below the other, so accumulator p * cols / 2 + i of plane q is
/// AND_pq of the same output for every (p, q): the sum over all planes happens in the registers of one thread.
namespace abcfx_hopper {

constexpr int kThreads = (1 + kConsumers) * 128;
constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;

template <class S>
struct Shared {
  uint8_t* data;
  uint64_t *full, *empty;
  __device__ explicit Shared(uint8_t* raw) {
    data = raw + (1024u - (shared_address(raw) & 1023u)) % 1024u;
    full = reinterpret_cast<uint64_t*>(data + S::stages * S::stage_bytes);
    empty = full + S::stages;
  }
};

template <class S>
__device__ __forceinline__ void produce(const CUtensorMap* map_a, const CUtensorMap* map_b, const Problem& p,
                                        const Shared<S>& shared) {
  Ring<S::stages> ring;
  const Space& s = p.space;
  const int pairs = S::paired ? p.weight_bases * p.activation_bases : 1;
  for (int index = blockIdx.x; index < tile_count(s); index += gridDim.x) {
    const Tile tile = tile_at(s, index, S::cols);
    for (int pair = 0; pair < pairs; ++pair)
      for (int tap = 0; tap < s.taps; ++tap)
        for (int chunk = 0; chunk < s.chunks; ++chunk, ring.next()) {
          const Corners at = corners(p, tile, pair, tap, chunk);
          uint8_t* to = shared.data + ring.slot * S::stage_bytes;
          uint64_t* full = shared.full + ring.slot;
          barrier_wait(shared.empty + ring.slot, ring.parity ^ 1u);
          barrier_expect(full, S::stage_bytes);
          load_box(to, map_a, full, at.a);
          load_box(to + S::a_bytes, map_b, full, at.b);
        }
  }
}

/// One step: 256 bits of the reduction, every activation plane against all weight planes.
template <class S>
__device__ __forceinline__ void issue(uint32_t (&sum)[S::N][S::width / 2], const Box& box, int consumer, uint32_t stage,
                                      int step, int add) {
#pragma unroll
  for (int q = 0; q < S::N; ++q)
    Wgmma<S::width>::issue(sum[q], operand_a(box, S::N, consumer, q, stage, step), operand_b(stage + S::a_bytes, step),
                           add);
}

/// AND_pq of one tile and all its reduction, in registers. One group of wgmmas stays in flight while the buffer of
/// the group before it goes back to the producer.
template <class S>
__device__ __forceinline__ void multiply(uint32_t (&sum)[S::N][S::width / 2], const Space& s, int consumer,
                                         const Shared<S>& shared, Ring<S::stages>& ring) {
  const bool signals = threadIdx.x % 32 == 0;  // every warp: each waits for its own wgmmas only
  int add = 0, last = -1;
  for (int tap = 0; tap < s.taps; ++tap)
    for (int chunk = 0; chunk < s.chunks; ++chunk, ring.next()) {
      const uint32_t stage = shared_address(shared.data) + ring.slot * S::stage_bytes;
      const int steps = steps_of(s, chunk);
      barrier_wait(shared.full + ring.slot, ring.parity);
      wgmma_fence();
      if (steps == kChunkBytes / kStepBytes) {
#pragma unroll
        for (int step = 0; step < kChunkBytes / kStepBytes; ++step, add = 1)
          issue<S>(sum, s.box, consumer, stage, step, add);
      } else {
        for (int step = 0; step < steps; ++step, add = 1) issue<S>(sum, s.box, consumer, stage, step, add);
      }
      wgmma_commit();
      wgmma_wait<1>();
      if (signals && last >= 0) barrier_arrive(shared.empty + last);
      last = ring.slot;
    }
  wgmma_wait<0>();
#pragma unroll
  for (int q = 0; q < S::N; ++q) keep_after_wait(sum[q]);
  if (signals) barrier_arrive(shared.empty + last);
}

}  // namespace abcfx_hopper
