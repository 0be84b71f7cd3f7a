#pragma once
#include "hopper.h"
#include "layout.h"

/// From the arguments to tiles, tensor maps and coordinates. No CUDA header: compiled for the host as well.
namespace abcfx_hopper {

/// Addresses and sizes of the epilogue; see abcfx/cuda.h.
struct Epilogue {
  const float *alpha, *beta, *alpha_sum, *row_sum, *column_base, *base, *gain, *offset;
  const int32_t *class_h, *class_w;
  void* dst;
  float low, high;
  int classes_w;
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

/// Where the two boxes of one stage start, in the dimensions of the maps below.
struct Corners {
  int a[5], b[5];
};
ABCFX_BOTH Corners corners(const Problem& p, const Tile& tile, int pair, int tap, int chunk) {
  const int y = tile.origin.y * p.stride_h + tap / p.space.taps_w * p.dilation_h;
  const int x = tile.origin.x * p.stride_w + tap % p.space.taps_w * p.dilation_w;
  const int byte = chunk * kChunkBytes;
  return {{tile.group * p.space.bytes + byte, x, pair % p.activation_bases, y, tile.origin.image},
          {byte, tap, tile.col, pair / p.activation_bases, tile.group}};
}

/// A byte tensor of five dimensions, innermost first. strides[i] is the distance in bytes of dimension i + 1.
struct Map {
  uint64_t dims[5], strides[4];
  uint32_t box[5], steps[5];
};

/// a as {bytes, x, plane, y, image}. A strided box spans (n - 1) * stride + 1 pixels and keeps every stride-th.
inline Map map_of_a(const abcfx_cuda_bgemm_args& t, const Box& box, int planes) {
  const uint64_t pixel = uint64_t(t.groups * t.words) * 8, line = pixel * t.padded_w, row = line * t.activation_bases;
  const uint32_t sw = uint32_t(t.stride_w), sh = uint32_t(t.stride_h);
  return {{pixel, uint64_t(t.padded_w), uint64_t(t.activation_bases), uint64_t(t.padded_h), uint64_t(t.images)},
          {pixel, line, row, row * t.padded_h},
          {kChunkBytes, uint32_t(box.w - 1) * sw + 1, uint32_t(planes), uint32_t(box.h - 1) * sh + 1,
           uint32_t(box.images)},
          {1, sw, 1, sh, 1}};
}

/// w as {bytes of a tap, tap, column, plane, group}: past the end of a tap TMA writes zeros, so that whatever a holds
/// there (the next group, say) adds nothing to the AND.
inline Map map_of_w(const abcfx_cuda_bgemm_args& t, int tile_cols, int planes) {
  const uint64_t taps = uint64_t(t.kernel_h * t.kernel_w), tap = uint64_t(t.words) * 8;
  const uint64_t col = tap * taps, plane = col * uint64_t(t.cols);
  return {{tap, taps, uint64_t(t.cols), uint64_t(t.weight_bases), uint64_t(t.groups)},
          {tap, col, plane, plane * t.weight_bases},
          {kChunkBytes, 1, uint32_t(tile_cols), uint32_t(planes), 1},
          {1, 1, 1, 1, 1}};
}

inline Problem problem_of(const abcfx_cuda_bgemm_args& t, int tile_cols) {
  Problem p = {};
  Space& s = p.space;
  s.box = choose_box(t.images, t.out_h, t.stride_w);
  s.images = int(t.images), s.out_h = int(t.out_h), s.out_w = int(t.out_w);
  s.cols = int(t.cols), s.groups = int(t.groups);
  s.tiles_w = int(ceil_div(t.out_w, s.box.w)), s.tiles_h = int(ceil_div(t.out_h, s.box.h));
  s.tiles_images = int(ceil_div(t.images, s.box.images)), s.tiles_cols = int(ceil_div(t.cols, tile_cols));
  s.taps_w = int(t.kernel_w), s.taps = int(t.kernel_h * t.kernel_w);
  s.bytes = int(t.words * 8), s.chunks = int(ceil_div(s.bytes, kChunkBytes));
  p.out = {t.alpha,   t.beta,    t.alpha_sum, t.row_sum, t.column_base, t.base, t.gain,
           t.offset,  t.class_h, t.class_w,   t.dst,     t.low,         t.high, int(t.classes_w)};
  p.weight_bases = int(t.weight_bases), p.activation_bases = int(t.activation_bases);
  p.stride_h = int(t.stride_h), p.stride_w = int(t.stride_w);
  p.dilation_h = int(t.dilation_h), p.dilation_w = int(t.dilation_w);
  return p;
}

inline bool in_range(int64_t v, int64_t low, int64_t high) { return v >= low && v <= high; }

inline bool sizes_agree(const abcfx_cuda_bgemm_args& t) {
  const bool positive = t.images > 0 && t.out_h > 0 && t.out_w > 0 && t.groups > 0 && t.words > 0 && t.cols > 0 &&
                        t.kernel_h > 0 && t.kernel_w > 0 && t.stride_h > 0 && t.stride_w > 0 && t.dilation_h > 0 &&
                        t.dilation_w > 0;
  const bool bases = in_range(t.weight_bases, 1, ABCFX_MAX_BASES) && in_range(t.activation_bases, 1, ABCFX_MAX_BASES);
  return positive && bases && (t.gain == nullptr) == (t.offset == nullptr) &&
         (t.out_h - 1) * t.stride_h + (t.kernel_h - 1) * t.dilation_h < t.padded_h &&
         (t.out_w - 1) * t.stride_w + (t.kernel_w - 1) * t.dilation_w < t.padded_w;
}

/// What TMA can address: pitches and bases of 16 bytes, element strides up to 8, coordinates and tiles of 31 bits.
inline bool addressable(const abcfx_cuda_bgemm_args& t) {
  const auto aligned = [](const void* p) { return (reinterpret_cast<uintptr_t>(p) & 15) == 0; };
  const int64_t most = int64_t(1) << 28, taps = t.kernel_h * t.kernel_w;
  if (t.words % 2 != 0 || !aligned(t.a) || !aligned(t.w) || t.stride_h > 8 || t.stride_w > 8) return false;
  if (t.padded_w >= most || t.padded_h >= most || t.images >= most || t.cols >= most) return false;
  if (t.groups * t.words >= most / 8 || taps * t.words * 64 >= int64_t(1) << 23) return false;
  const Box box = choose_box(t.images, t.out_h, t.stride_w);
  const int64_t lines = ceil_div(t.images, box.images) * ceil_div(t.out_h, box.h);
  return lines < most && lines * ceil_div(t.out_w, box.w) < most &&
         lines * ceil_div(t.out_w, box.w) * ceil_div(t.cols, 32) * t.groups < most;
}

}  // namespace abcfx_hopper
