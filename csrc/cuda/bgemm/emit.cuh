#pragma once
#include "../levels.cuh"
#include "../values.cuh"
#include "window.cuh"

// Outputs as bit planes of the next layer, in the layout that abcfx_cuda_pack writes. A block owns whole rows of
// outputs but not whole words of them: its first channel may lie anywhere in a word, and a group of the next layer may
// end inside its columns. So dst and counts start as zeros, which also makes the padding, and blocks add to halves of
// words by atomicOr and to counts by atomicAdd: integers, the same in any order.
namespace abcfx_cuda {

/// A half of a word: 32 channels of a group of the next layer, counted through all groups.
struct Halves {
  uint32_t channels, each;  ///< channels and halves of a group

  __device__ __forceinline__ Halves(const abcfx_cuda_bgemm_args& args, const abcfx_cuda_emit_args& emit)
      : channels((uint32_t)(args.groups * args.cols) / (uint32_t)emit.groups), each((channels + 31) / 32) {}
  __device__ __forceinline__ uint32_t of(uint32_t o) const { return o / channels * each + o % channels / 32; }
  __device__ __forceinline__ uint32_t first(uint32_t half) const { return half / each * channels + half % each * 32; }
  __device__ __forceinline__ uint32_t last(uint32_t half) const {
    const uint32_t end = (half / each + 1) * channels, all = first(half) + 32;
    return all < end ? all : end;
  }
};

/// Adds bits[q] to half `half` of the pixel of output row `row`.
__device__ __forceinline__ void emit_bits(const abcfx_cuda_emit_args& emit, const Window& w, const Halves& halves,
                                          uint32_t row, uint32_t half, const uint32_t (&bits)[ABCFX_MAX_BASES]) {
  const uint32_t line = row / w.out_w, x = row - line * w.out_w, n = line / w.out_h, y = line - n * w.out_h;
  const uint32_t height = (uint32_t)(emit.top + w.out_h + emit.bottom), g = half / halves.each, i = half % halves.each;
  const int64_t width = emit.left + w.out_w + emit.right, words = (halves.each + 1) / 2;
  const int64_t from = (int64_t)n * height + y + emit.top;
#pragma unroll
  for (int q = 0; q < ABCFX_MAX_BASES; ++q) {
    if (q >= emit.planes || !bits[q]) continue;
    const int64_t place = ((from * emit.planes + q) * width + emit.left + x) * emit.groups + g;
    atomicOr((unsigned*)emit.dst + place * words * 2 + i, bits[q]);
    if (emit.counts) atomicAdd(emit.counts + place, __popc(bits[q]));
  }
}

__device__ __forceinline__ Levels levels_of(const abcfx_cuda_emit_args& emit) {
  return {emit.levels, emit.planes, emit.levels == ABCFX_CODED ? *emit.inverse : 0.0f, emit.shift};
}

/// What the next layer quantizes, of an output as it is stored.
__device__ __forceinline__ float entering(const abcfx_cuda_emit_args& emit, uint32_t o, float v) {
  if (emit.gain) v = __fadd_rn(__fmul_rn(v, emit.gain[o]), emit.offset[o]);
  return clip(v, emit.low, emit.high);
}

/// One output.
__device__ __forceinline__ void emit_one(const abcfx_cuda_bgemm_args& args, const abcfx_cuda_emit_args& emit,
                                         const Window& w, uint32_t row, uint32_t o, float y) {
  const Halves halves(args, emit);
  const unsigned minus = levels_of(emit).minus(entering(emit, o, y));
  const uint32_t half = halves.of(o), bit = o - halves.first(half);
  uint32_t bits[ABCFX_MAX_BASES];
#pragma unroll
  for (int q = 0; q < ABCFX_MAX_BASES; ++q) bits[q] = (minus >> q & 1) << bit;
  emit_bits(emit, w, halves, row, half, bits);
}

/// The outputs of a block, from shared memory: a thread makes a half word of a row, threads next to each other rows.
template <class T>
__device__ __forceinline__ void emit_block(const abcfx_cuda_bgemm_args& args, const abcfx_cuda_emit_args& emit,
                                           const Window& w, uint32_t first_row, uint32_t first_col, uint32_t group,
                                           const float* tile) {
  const Levels levels = levels_of(emit);
  const Halves halves(args, emit);
  const uint32_t left = w.cols - first_col, begin = group * w.cols + first_col;
  const uint32_t end = begin + (left < T::COLS ? left : T::COLS);
  const uint32_t first = halves.of(begin), count = halves.of(end - 1) - first + 1;
#pragma unroll 1
  for (uint32_t item = threadIdx.x; item < count * T::ROWS; item += T::THREADS) {
    const uint32_t row = item % T::ROWS, half = first + item / T::ROWS;
    if (first_row + row >= w.rows) continue;
    const uint32_t zero = halves.first(half), last = halves.last(half), stop = last < end ? last : end;
    uint32_t bits[ABCFX_MAX_BASES] = {};
#pragma unroll 1
    for (uint32_t o = zero > begin ? zero : begin; o < stop; ++o) {
      const unsigned minus = levels.minus(entering(emit, o, tile[row * (T::COLS + 1) + o - begin]));
#pragma unroll
      for (int q = 0; q < ABCFX_MAX_BASES; ++q) bits[q] |= (minus >> q & 1) << (o - zero);
    }
    emit_bits(emit, w, halves, first_row + row, half, bits);
  }
}

}  // namespace abcfx_cuda
