#pragma once
#include "layout.h"
#include "ptx.cuh"

/// Warp-specialised persistent binary GEMM.
///
///   warpgroup 0        one thread keeps `stages` buffers full by TMA
///   warpgroups 1, 2    64 rows each: N wgmmas a step (one per activation plane), each 64 x (M * cols)
///
/// B holds the M weight planes of `cols` columns one below the other, so accumulator p * cols / 2 + i of plane q is
/// AND_pq of the same output for every (p, q): the sum over all planes happens in the registers of one thread.
namespace abcfx_hopper {

/// Addresses and sizes of the epilogue; see hopper.h.
struct Epilogue {
  const float *alpha, *beta, *alpha_sum, *row_sum, *column_base, *base, *gain, *offset;
  const int32_t *class_h, *class_w;
  void* dst;
  int64_t classes_w;
};

struct Problem {
  Space space;
  Epilogue out;
  int weight_bases, activation_bases;
  int stride_h, stride_w, dilation_h, dilation_w;
};

/// M x N planes in registers, `cols` columns a tile. `paired`: M = N = 1 and a loop over all pairs (p, q) outside,
/// adding up in f32, for any number of planes.
template <int weight_planes, int planes, int tile_cols, bool looped>
struct Shape {
  static constexpr int M = weight_planes, N = planes, cols = tile_cols, width = M * cols;
  static constexpr bool paired = looped;
  static constexpr uint32_t a_bytes = N * kTileRows * kChunkBytes, b_bytes = width * kChunkBytes;
  static constexpr uint32_t stage_bytes = a_bytes + b_bytes;
  static constexpr int stages = (226 * 1024) / stage_bytes < 6 ? (226 * 1024) / stage_bytes : 6;
  /// 1023 bytes: dynamic shared memory is aligned to 16 bytes, the swizzle needs 1024.
  static constexpr size_t shared_bytes = stages * stage_bytes + 2 * stages * sizeof(uint64_t) + 1023;
  static_assert(a_bytes % kGroupBytes == 0 && b_bytes % kGroupBytes == 0, "both operands start on a swizzle pattern");
  static_assert(stages >= 3 && shared_bytes <= 227 * 1024, "does not fit the shared memory of an SM");
};

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
  for (int64_t index = blockIdx.x; index < tile_count(s); index += gridDim.x) {
    const Tile tile = tile_at(s, index, S::cols);
    const int y = int(tile.origin.y) * p.stride_h, x = int(tile.origin.x) * p.stride_w;
    for (int pair = 0; pair < pairs; ++pair)
      for (int tap = 0; tap < int(s.taps); ++tap) {
        const int tap_y = y + tap / int(s.taps_w) * p.dilation_h, tap_x = x + tap % int(s.taps_w) * p.dilation_w;
        for (int chunk = 0; chunk < int(s.chunks); ++chunk, ring.next()) {
          barrier_wait(shared.empty + ring.slot, ring.parity ^ 1u);
          uint64_t* full = shared.full + ring.slot;
          barrier_expect(full, S::stage_bytes);
          uint8_t* at = shared.data + ring.slot * S::stage_bytes;
          const int byte = chunk * kChunkBytes;
          load_box(at, map_a, full,
                   {int(tile.group * s.bytes) + byte, tap_x, pair % p.activation_bases, tap_y, int(tile.origin.image)});
          load_box(at + S::a_bytes, map_b, full,
                   {byte, tap, int(tile.col), pair / p.activation_bases, int(tile.group)});
        }
      }
  }
}

/// AND_pq of one tile and all its reduction, in registers. One group of wgmmas stays in flight while the buffer of
/// the group before it goes back to the producer.
template <class S>
__device__ __forceinline__ void multiply(uint32_t (&sum)[S::N][S::width / 2], const Space& s, int consumer,
                                         const Shared<S>& shared, Ring<S::stages>& ring) {
  const uint32_t stride = group_stride(s.box, S::N);
  const bool signals = threadIdx.x % 32 == 0;  // every warp: each waits for its own wgmmas only
  int add = 0, last = -1;
  for (int tap = 0; tap < int(s.taps); ++tap)
    for (int chunk = 0; chunk < int(s.chunks); ++chunk, ring.next()) {
      const uint32_t at = shared_address(shared.data) + ring.slot * S::stage_bytes;
      const uint64_t b = descriptor(at + S::a_bytes, kGroupBytes);
      const int steps = steps_of(s, chunk);
      barrier_wait(shared.full + ring.slot, ring.parity);
      wgmma_fence();
      for (int step = 0; step < steps; ++step, add = 1)
#pragma unroll
        for (int q = 0; q < S::N; ++q)
          Wgmma<S::width>::issue(sum[q],
                                 advance(descriptor(at + operand_offset(s.box, S::N, consumer, q), stride), step),
                                 advance(b, step), add);
      wgmma_commit();
      wgmma_wait<1>();
      if (signals && last >= 0) barrier_arrive(shared.empty + last);
      last = ring.slot;
    }
  wgmma_wait<0>();
  if (signals) barrier_arrive(shared.empty + last);
}

}  // namespace abcfx_hopper
