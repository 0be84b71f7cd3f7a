#pragma once
// What the two AVX-512 kernels share: a zmm is 64 reduction bits of eight output channels, so nothing is summed across
// lanes. Everything is static, for the reason given in window.h.

// FINISH(a, b): the compiler must have both vectors in registers here, and may move no load across. Asked before
// immintrin.h is read, so of the compiler itself: without 512-bit registers of its own there is nothing to keep.
#if defined(__AVX512F__)
#define FINISH(a, b) __asm__ volatile("" : "+v"(a), "+v"(b) : : "memory")
#else
#define FINISH(a, b) (void)0
#endif

#include <immintrin.h>

#include "window.h"

#if !defined(__AVX512VPOPCNTDQ__) || !defined(__AVX512F__) || !defined(__AVX512DQ__) || !defined(__AVX512VL__)
#error "compile this file with -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vpopcntdq"
#endif

// The arrays of a tile must become registers: gcc does that only if every loop over them is unrolled before it looks.
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

namespace {

constexpr int LANES = ABCFX_LANES;
/// Rows whose pointers are made once and used by every column group; their windows stay in the first cache.
constexpr int CHUNK = 96;
/// A tile may read the pointers of this many rows past the last one (they repeat it); their results are not stored.
constexpr int SLACK = 16;

struct Rows {
  const uint64_t* a[CHUNK + SLACK];
  const float* base[CHUNK + SLACK];
};

/// What all tiles of a call share. q0 and p0 are the first planes of the chunk of planes at work.
///
/// The accumulators of a tile end as acc = popcount - 2 * quarter, quarter = floor(depth / 4), so that
///     depth - 2 popcount = -2 acc + (depth mod 4)
/// is formed without cancellation. The remainder is the same for every plane: start = (depth mod 4) * sum_q beta_q.
struct Job {
  const abcfx_bgemm_args* args;
  Window window;
  int64_t channels;  ///< row stride of dst and of a plane of alpha
  int64_t q0, p0;
  bool first;  ///< this chunk starts from base; the later ones add to dst
  int64_t quarter;
  float minus2beta[ABCFX_MAX_BASES];
  float start;
};

/// A group of adjacent column blocks of one convolution group.
struct Columns {
  const uint64_t* w;  ///< plane p0 of the first block
  int64_t a_offset;   ///< words from the pointers of Rows to plane q0 of this convolution group
  int64_t channel;    ///< first output channel, counted over all groups
  __mmask8 last;      ///< the channels of the last block that exist
};

inline Columns columns_of(const Job& job, int64_t index, int64_t blocks) {
  const abcfx_bgemm_args& args = *job.args;
  const Block first = block_of(args, index), last = block_of(args, index + blocks - 1);
  Columns columns;
  columns.w = args.w + (index * args.weight_bases + job.p0) * job.window.words * LANES;
  columns.a_offset = first.group * args.words + job.q0 * job.window.plane_step;
  columns.channel = first.channel;
  columns.last = (__mmask8)((1u << last.count) - 1);
  return columns;
}

/// One past the last block of the convolution group of `block`, or the last block asked for.
inline int64_t group_end(const abcfx_bgemm_args& args, int64_t block) {
  const int64_t per_group = (args.cols + LANES - 1) / LANES, end = (block / per_group + 1) * per_group;
  return end < args.block_end ? end : args.block_end;
}

/// The counts of two vectors (below 2^31: the low dwords of the 64-bit lanes) as sixteen floats.
inline __m512 floats_of(__m512i first, __m512i second) {
  const __m512i low = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  return _mm512_cvtepi32_ps(_mm512_permutex2var_epi32(first, low, second));
}

}  // namespace
