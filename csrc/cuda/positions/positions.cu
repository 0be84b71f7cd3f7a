// Bit images along their output positions (abcfx/positions.h): a transpose of bits. A warp makes one word, 64
// positions, of each of 32 channels: its lanes read 32 bits of a position each, and every vote of the warp is a half
// word of a channel. The four warps of a block make four words next to each other, 32 bytes of every column.
#include "../launch.cuh"
#include "abcfx/positions.h"

namespace abcfx_cuda {
namespace {

/// Sizes in 32 bits, and where the pixel of a position begins, tap 0 of plane 0, in halves of words.
struct Positions {
  uint32_t channels, halves, taps, columns, depth, words, out_w, out_h;

  __device__ __forceinline__ explicit Positions(const abcfx_positions_args& t)
      : channels((uint32_t)t.channels), halves((channels + 31) / 32), taps((uint32_t)(t.kernel_h * t.kernel_w)),
        columns(taps * channels), depth((uint32_t)(t.images * t.out_h * t.out_w)), words((depth + 63) / 64),
        out_w((uint32_t)t.out_w), out_h((uint32_t)t.out_h) {}

  /// Half `half` of position r under tap t in plane q; 0 past the last position.
  __device__ __forceinline__ uint32_t bits(const abcfx_positions_args& a, uint32_t r, uint32_t q, uint32_t t,
                                           uint32_t half) const {
    if (r >= depth) return 0;
    const uint32_t kernel_w = (uint32_t)a.kernel_w, line = r / out_w, x = r - line * out_w, n = line / out_h;
    const int64_t y = (line - n * out_h) * a.stride_h + t / kernel_w * a.dilation_h;
    const int64_t from = x * a.stride_w + t % kernel_w * a.dilation_w, each = (a.channels + 63) / 64 * 2;
    return ((const uint32_t*)a.src)[(((n * a.padded_h + y) * a.planes + q) * a.padded_w + from) * each + half];
  }
};

__global__ void __launch_bounds__(128) positions_kernel(const abcfx_positions_args args) {
  const Positions p(args);
  const uint32_t lane = threadIdx.x % 32, word = blockIdx.x * 4 + threadIdx.x / 32;
  if (word >= p.words) return;  // whole warps
  for (uint32_t part = blockIdx.y; part < args.planes * p.taps * p.halves; part += gridDim.y) {
    const uint32_t half = part % p.halves, t = part / p.halves % p.taps, q = part / p.halves / p.taps;
    const uint32_t low = p.bits(args, word * 64 + lane, q, t, half);
    const uint32_t high = p.bits(args, word * 64 + 32 + lane, q, t, half);
    uint64_t mine = 0;
#pragma unroll
    for (uint32_t c = 0; c < 32; ++c) {
      const uint64_t both = __ballot_sync(~0u, low >> c & 1) | (uint64_t)__ballot_sync(~0u, high >> c & 1) << 32;
      if (lane == c) mine = both;
    }
    if (half * 32 + lane >= p.channels) continue;
    const int64_t column = (int64_t)q * p.columns + t * p.channels + half * 32 + lane;
    ((uint64_t*)args.dst)[column * p.words + word] = mine;
    if (args.counts && mine) atomicAdd(args.counts + column, __popcll(mine));
  }
}

bool reaches(int64_t padded, int64_t kernel, int64_t stride, int64_t dilation, int64_t out) {
  return kernel >= 1 && stride >= 1 && dilation >= 1 && out >= 0 &&
         (out == 0 || (out - 1) * stride + (kernel - 1) * dilation < padded);
}

}  // namespace
}  // namespace abcfx_cuda

int abcfx_cuda_positions(const abcfx_positions_args* args, void* stream) {
  using namespace abcfx_cuda;
  const abcfx_positions_args& t = *args;
  if (t.planes < 1 || t.planes > ABCFX_MAX_BASES || t.channels < 0 || t.images < 0 ||
      !reaches(t.padded_h, t.kernel_h, t.stride_h, t.dilation_h, t.out_h) ||
      !reaches(t.padded_w, t.kernel_w, t.stride_w, t.dilation_w, t.out_w)) {
    return ABCFX_BAD_SHAPE;
  }
  const int64_t depth = t.images * t.out_h * t.out_w, taps = t.kernel_h * t.kernel_w;
  const int64_t parts = t.planes * taps * ((t.channels + 31) / 32);
  if (depth >= (int64_t)1 << 31 || taps * t.channels >= (int64_t)1 << 31 || parts >= (int64_t)1 << 31) {
    return ABCFX_UNSUPPORTED;
  }
  const int status = t.counts ? zero(t.counts, t.planes * taps * t.channels * 4, stream) : (int)ABCFX_OK;
  if (status != ABCFX_OK) return status;
  const unsigned deep = (unsigned)((depth + 255) / 256), high = (unsigned)(parts < 65535 ? parts : 65535);
  return launch(positions_kernel, dim3(deep, high), 128, 0, stream, t);
}
