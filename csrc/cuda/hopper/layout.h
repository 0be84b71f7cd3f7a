#pragma once
#include <stdint.h>

/// Where things are: shared memory as TMA fills it, descriptors as wgmma reads them, accumulators as it leaves them,
/// the order of the tiles and the parity of the barriers. Everything here is pure and compiled for the host as well,
/// so that emulation.cpp can check it without a GPU.

#if defined(__CUDACC__)
#define ABCFX_BOTH __host__ __device__ __forceinline__
#else
#define ABCFX_BOTH inline
#endif

namespace abcfx_hopper {

constexpr int kChunkBytes = 128;                 ///< reduction bytes of one stage and row: the span of the swizzle
constexpr int kStepBytes = 32;                   ///< reduction bytes of one wgmma: k256 bits
constexpr int kRowGroup = 8;                     ///< rows that share one swizzle pattern
constexpr int kGroupBytes = kRowGroup * kChunkBytes;
constexpr int kWarpgroupRows = 64;               ///< wgmma has 64 rows, always
constexpr int kConsumers = 2;
constexpr int kTileRows = kWarpgroupRows * kConsumers;

ABCFX_BOTH int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// TMA SWIZZLE_128B: the 16-byte unit (address bits 4 to 6) is xored with the line of 128 bytes (bits 7 to 9).
/// The tensor core applies the same function to every address it forms, hence buffers are aligned to 1024 bytes.
ABCFX_BOTH uint32_t swizzle128(uint32_t address) { return address ^ ((address >> 3) & 0x70u); }

/// Shared-memory matrix descriptor of wgmma, K-major, 128-byte swizzle:
/// bits 0-13 address / 16, bits 16-29 leading offset / 16 (not used by this layout, 1 by convention),
/// bits 32-45 distance of two groups of eight rows / 16, bits 62-63 swizzle mode (1 = 128 bytes).
ABCFX_BOTH uint64_t descriptor(uint32_t address, uint32_t group_stride) {
  return uint64_t((address & 0x3FFFFu) >> 4) | uint64_t(1) << 16 | uint64_t((group_stride & 0x3FFFFu) >> 4) << 32 |
         uint64_t(1) << 62;
}

/// The descriptor `steps` wgmma steps further along the reduction; stays within the 128 bytes of a row.
ABCFX_BOTH uint64_t advance(uint64_t desc, int steps) { return desc + uint64_t(steps * (kStepBytes >> 4)); }

/// Accumulator `index` of thread `thread` (0 to 127 in its warpgroup) of an m64nNk256 wgmma.
ABCFX_BOTH int fragment_row(int thread, int index) {
  return (thread / 32) * 16 + (thread % 32) / 4 + ((index >> 1) & 1) * 8;
}
ABCFX_BOTH int fragment_col(int thread, int index) { return (index >> 2) * 8 + (thread % 4) * 2 + (index & 1); }

/// Slot and parity of the `count`-th use of a ring of `stages` buffers.
/// The consumer waits for parity(count) of "full", the producer for the opposite of "empty": a fresh barrier passes
/// a wait for parity 1, so the first round of the producer does not wait.
template <int stages>
struct Ring {
  int slot = 0;
  uint32_t parity = 0;
  ABCFX_BOTH void next() {
    if (++slot == stages) {
      slot = 0;
      parity ^= 1u;
    }
  }
};

/// The 128 rows of a tile are box_images x box_h x box_w output pixels, box_w = 8 (images) or 128 (rows of a linear
/// layer). TMA leaves them as [box_images][box_h][planes][box_w][128 bytes].
struct Box {
  int w, h, images;
};

ABCFX_BOTH uint32_t plane_stride(const Box& box) { return uint32_t(box.w) * kChunkBytes; }
/// Distance of two groups of eight rows of one plane. box.w = 8: the other planes lie between; else neighbours.
ABCFX_BOTH uint32_t group_stride(const Box& box, int planes) {
  return box.w == kRowGroup ? uint32_t(planes) * kGroupBytes : uint32_t(kGroupBytes);
}
/// First byte of plane `plane` of the rows of consumer `consumer`.
ABCFX_BOTH uint32_t operand_offset(const Box& box, int planes, int consumer, int plane) {
  return uint32_t(consumer * (kWarpgroupRows / kRowGroup)) * group_stride(box, planes) +
         uint32_t(plane) * plane_stride(box);
}

/// Descriptors of one step: a plane of a consumer's rows, and all weight planes of the tile.
ABCFX_BOTH uint64_t operand_a(const Box& box, int planes, int consumer, int plane, uint32_t a, int step) {
  return advance(descriptor(a + operand_offset(box, planes, consumer, plane), group_stride(box, planes)), step);
}
ABCFX_BOTH uint64_t operand_b(uint32_t b, int step) { return advance(descriptor(b, kGroupBytes), step); }

struct Pixel {
  int image, y, x;
};

/// What is computed, in tiles. 32 bits: divisions of 64 are function calls on a GPU.
struct Space {
  Box box;
  int images, out_h, out_w, cols, groups;
  int tiles_w, tiles_h, tiles_images, tiles_cols;
  int taps_w, taps, chunks;  ///< chunks of 128 bytes a tap
  int bytes;                 ///< reduction bytes of one tap
};

ABCFX_BOTH int tile_rows(const Space& s) { return s.tiles_w * s.tiles_h * s.tiles_images; }
ABCFX_BOTH int tile_count(const Space& s) { return tile_rows(s) * s.tiles_cols * s.groups; }

struct Tile {
  int group, col;  ///< first column of the tile, within the group
  Pixel origin;    ///< first output pixel
};

/// Tiles go in bands of `kBand` row tiles: within a band the row runs fastest, so that the tiles in flight share
/// few rows and few columns, both of which then stay in L2.
constexpr int kBand = 16;
ABCFX_BOTH Tile tile_at(const Space& s, int index, int tile_cols) {
  const int rows = tile_rows(s), per_group = rows * s.tiles_cols;
  const int group = index / per_group, within = index % per_group;
  const int first = within / (kBand * s.tiles_cols) * kBand;
  const int height = rows - first < kBand ? rows - first : kBand;
  const int rest = within - first * s.tiles_cols;
  const int row = first + rest % height, col = rest / height;
  const int line = row / s.tiles_w;
  return {group, col * tile_cols,
          {line / s.tiles_h * s.box.images, line % s.tiles_h * s.box.h, row % s.tiles_w * s.box.w}};
}

/// Output pixel of row `row` (0 to 127) of a tile.
ABCFX_BOTH Pixel pixel_of(const Box& box, const Pixel& origin, int row) {
  const int line = row / box.w;
  return {origin.image + line / box.h, origin.y + line % box.h, origin.x + row % box.w};
}
ABCFX_BOTH bool inside(const Space& s, const Pixel& p) {
  return p.image < s.images && p.y < s.out_h && p.x < s.out_w;
}
ABCFX_BOTH int64_t output_row(const Space& s, const Pixel& p) {
  return (int64_t(p.image) * s.out_h + p.y) * s.out_w + p.x;
}

/// wgmma steps of chunk `chunk` of a tap: steps that are all padding are left out.
ABCFX_BOTH int steps_of(const Space& s, int chunk) {
  const int left = s.bytes - chunk * kChunkBytes;
  return left >= kChunkBytes ? kChunkBytes / kStepBytes : int(ceil_div(left, kStepBytes));
}

/// The box that wastes the fewest rows. A linear layer (one line of one image) takes 128 pixels of it.
inline Box choose_box(int64_t images, int64_t out_h, int64_t stride_w) {
  if (out_h == 1 && images == 1 && stride_w == 1) return {kTileRows, 1, 1};
  Box best = {kRowGroup, 16, 1};
  int64_t least = INT64_MAX;
  for (int h = 16; h >= 1; h /= 2) {
    const int64_t rows = ceil_div(out_h, h) * h * ceil_div(images, 16 / h) * (16 / h);
    if (rows < least) {
      least = rows;
      best = {kRowGroup, h, 16 / h};
    }
  }
  return best;
}

}  // namespace abcfx_hopper
