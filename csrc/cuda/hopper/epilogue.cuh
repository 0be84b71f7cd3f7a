#pragma once
#include "../values.cuh"
#include "kernel.cuh"

/// From popcounts to the output: 4 sum alpha beta AND, then the rank-one correction, base, affine, store.
namespace abcfx_hopper {

__device__ __forceinline__ void store2(float* at, float v, float u) { *reinterpret_cast<float2*>(at) = {v, u}; }
__device__ __forceinline__ void store2(__half* at, float v, float u) {
  *reinterpret_cast<__half2*>(at) = __floats2half2_rn(v, u);
}
__device__ __forceinline__ void store2(__nv_bfloat16* at, float v, float u) {
  *reinterpret_cast<__nv_bfloat162*>(at) = __floats2bfloat162_rn(v, u);
}

/// The two output rows of a thread: eight apart in its warpgroup.
struct Row {
  int64_t index;      ///< in dst, negative outside the output
  const float* base;  ///< of its padding class
  float correction;   ///< -2 row_sum
};

__device__ __forceinline__ Row row_of(const Problem& p, const Tile& tile, int row) {
  const Space& s = p.space;
  const Pixel pixel = pixel_of(s.box, tile.origin, row);
  if (!inside(s, pixel)) return {-1, nullptr, 0.f};
  const int64_t index = output_row(s, pixel);
  const int h = p.out.class_h ? p.out.class_h[pixel.y] : 0, w = p.out.class_w ? p.out.class_w[pixel.x] : 0;
  const float* base = p.out.base ? p.out.base + (h * p.out.classes_w + w) * s.groups * s.cols : nullptr;
  return {index, base, -2.f * p.out.row_sum[index * s.groups + tile.group]};
}

/// dst of one output: `combined` is sum_pq alpha beta AND_pq.
__device__ __forceinline__ float finish(const Epilogue& e, const Row& row, int64_t col, float combined) {
  float y = fmaf(row.correction, __ldg(e.alpha_sum + col), 4.f * combined) + __ldg(e.column_base + col);
  if (row.base) y += __ldg(row.base + col);
  if (e.gain) y = fmaf(y, __ldg(e.gain + col), __ldg(e.offset + col));
  return clip(y, e.low, e.high);
}

/// Stores a pair of neighbouring columns of one row, in one access where both are there and aligned.
template <class T>
__device__ __forceinline__ void put(const Problem& p, const Row& row, int64_t group, int64_t col, float v, float u) {
  const Space& s = p.space;
  if (row.index < 0 || col >= s.cols) return;
  const int64_t width = s.groups * s.cols, at = group * s.cols + col;
  T* to = static_cast<T*>(p.out.dst) + row.index * width + at;
  const bool both = col + 1 < s.cols;
  const float y = finish(p.out, row, at, v), z = both ? finish(p.out, row, at + 1, u) : 0.f;
  if (both && (reinterpret_cast<uintptr_t>(to) & (2 * sizeof(T) - 1)) == 0) {
    store2(to, y, z);
  } else {
    store(to, y);
    if (both) store(to + 1, z);
  }
}

/// sum_p alpha[p][col] sum_q beta[q] AND_pq of accumulator `i` (0 to cols / 2 - 1).
template <class S>
__device__ __forceinline__ float combine(const uint32_t (&sum)[S::N][S::width / 2], const float (&beta)[S::N],
                                         const float (&alpha)[S::M], int i) {
  float y = 0.f;
#pragma unroll
  for (int m = 0; m < S::M; ++m) {
    float z = 0.f;
#pragma unroll
    for (int q = 0; q < S::N; ++q) z = fmaf(beta[q], float(int(sum[q][m * (S::cols / 2) + i])), z);
    y = fmaf(alpha[m], z, y);
  }
  return y;
}

template <int count>
__device__ __forceinline__ void load_alpha(float (&alpha)[count], const Problem& p, int first, int64_t group,
                                           int64_t col) {
  const int64_t width = p.space.groups * p.space.cols;
#pragma unroll
  for (int m = 0; m < count; ++m)
    alpha[m] = col < p.space.cols ? __ldg(p.out.alpha + (first + m) * width + group * p.space.cols + col) : 0.f;
}

/// Whole epilogue of a tile whose planes are all in registers.
template <class S, class T>
__device__ __forceinline__ void write(const uint32_t (&sum)[S::N][S::width / 2], const Problem& p, const Tile& tile,
                                      int consumer) {
  const int thread = threadIdx.x % 128;
  const int row = consumer * kWarpgroupRows + fragment_row(thread, 0);
  const Row rows[2] = {row_of(p, tile, row), row_of(p, tile, row + 8)};
  float beta[S::N];
#pragma unroll
  for (int q = 0; q < S::N; ++q) beta[q] = __ldg(p.out.beta + q);
#pragma unroll
  for (int i = 0; i < S::cols / 2; i += 4) {
    const int col = tile.col + fragment_col(thread, i);
    float left[S::M], right[S::M];
    load_alpha(left, p, 0, tile.group, col);
    load_alpha(right, p, 0, tile.group, col + 1);
#pragma unroll
    for (int half = 0; half < 2; ++half)
      put<T>(p, rows[half], tile.group, col, combine<S>(sum, beta, left, i + 2 * half),
             combine<S>(sum, beta, right, i + 2 * half + 1));
  }
}

/// One pair (p, q) of the general path: total += alpha[p] beta[q] AND_pq.
template <class S>
__device__ __forceinline__ void add_pair(float (&total)[S::cols / 2], const uint32_t (&sum)[1][S::cols / 2],
                                         const Problem& p, const Tile& tile, int pair) {
  const int thread = threadIdx.x % 128;
  const float beta = __ldg(p.out.beta + pair % p.activation_bases);
#pragma unroll
  for (int i = 0; i < S::cols / 2; ++i) {
    float alpha[1];
    load_alpha(alpha, p, pair / p.activation_bases, tile.group, tile.col + fragment_col(thread, i));
    total[i] = fmaf(alpha[0] * beta, float(int(sum[0][i])), total[i]);
  }
}

template <class S, class T>
__device__ __forceinline__ void write_total(const float (&total)[S::cols / 2], const Problem& p, const Tile& tile,
                                            int consumer) {
  const int thread = threadIdx.x % 128;
  const int row = consumer * kWarpgroupRows + fragment_row(thread, 0);
  const Row rows[2] = {row_of(p, tile, row), row_of(p, tile, row + 8)};
#pragma unroll
  for (int i = 0; i < S::cols / 2; i += 2)
    put<T>(p, rows[(i >> 1) & 1], tile.group, tile.col + fragment_col(thread, i), total[i], total[i + 1]);
}

template <class S, class T>
__device__ __forceinline__ void consume(const Problem& p, const Shared<S>& shared, int consumer) {
  Ring<S::stages> ring;
  uint32_t sum[S::N][S::width / 2];
  for (int index = blockIdx.x; index < tile_count(p.space); index += gridDim.x) {
    const Tile tile = tile_at(p.space, index, S::cols);
    if constexpr (S::paired) {
      float total[S::cols / 2] = {};
      for (int pair = 0; pair < p.weight_bases * p.activation_bases; ++pair) {
        multiply<S>(sum, p.space, consumer, shared, ring);
        add_pair<S>(total, sum, p, tile, pair);
      }
      write_total<S, T>(total, p, tile, consumer);
    } else {
      multiply<S>(sum, p.space, consumer, shared, ring);
      write<S, T>(sum, p, tile, consumer);
    }
  }
}

template <class S, class T>
__global__ void __launch_bounds__(kThreads, 1)
    hopper_bgemm(const __grid_constant__ CUtensorMap map_a, const __grid_constant__ CUtensorMap map_b,
                 const __grid_constant__ Problem problem) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ uint8_t raw[];
  const Shared<S> shared(raw);
  if (threadIdx.x == 0) {
    for (int i = 0; i < S::stages; ++i) {
      barrier_init(shared.full + i, 1);
      barrier_init(shared.empty + i, kConsumers * 4);  // one arrival a warp
    }
    fence_barrier_init();
    prefetch_map(&map_a);
    prefetch_map(&map_b);
  }
  __syncthreads();
  const int warpgroup = __shfl_sync(0xFFFFFFFFu, threadIdx.x / 128, 0);
  if (warpgroup == 0) {
    give_registers<kProducerRegisters>();
    if (threadIdx.x == 0) produce<S>(&map_a, &map_b, problem, shared);
  } else {
    take_registers<kConsumerRegisters>();
    consume<S, T>(problem, shared, warpgroup - 1);
  }
#else
  __trap();  // machine code for another target than sm_90a: stop, do not leave dst unwritten
#endif
}

}  // namespace abcfx_hopper
