#pragma once
#include <string.h>

#include "abcfx/positions.h"

// What the variants share: 64 positions at a time, every column becomes one word, bit r of it position r; words then go
// to their places. A variant brings, as a struct V,
//
//   transpose(rows, delta, columns)   columns[c] bit r = rows[r][delta] bit c: 64 words in, 64 out
//   place(columns, octets, dst)       32 columns of the lookup layout: byte o of each word to vector o of `octets`
//
// In a nameless namespace for the reason given in bgemm/window.h.

namespace {

constexpr int64_t GROUP = 64;  ///< positions at a time: the bits of a word

inline int64_t ceil_of(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Sizes that hold for a whole call.
struct Plan {
  int64_t words, taps, columns, depth;
  int64_t tap_w, tap_h, plane;        ///< words of src from a tap to the next, from a plane to the next
  int64_t blocks, fold, vectors, octets;  ///< of the lookup layout (abcfx/lut.h)

  explicit Plan(const abcfx_positions_args& args) {
    words = ceil_of(args.channels, 64);
    taps = args.kernel_h * args.kernel_w;
    columns = taps * args.channels;
    depth = args.images * args.out_h * args.out_w;
    plane = args.padded_w * words;
    tap_w = args.dilation_w * words;
    tap_h = args.dilation_h * args.planes * plane;
    blocks = ceil_of(columns, args.lanes);
    fold = args.lanes != ABCFX_LANES && 2 * columns <= args.lanes ? 2 : 1;
    vectors = ceil_of(args.planes, fold);
    octets = ceil_of(depth, 8);
  }

  /// Room for every column of a block, and for the words past the last channel of the last tap.
  int64_t room(int64_t lanes) const { return blocks * lanes + 64; }
};

inline bool reaches(int64_t padded, int64_t kernel, int64_t stride, int64_t dilation, int64_t out) {
  return kernel >= 1 && stride >= 1 && dilation >= 1 && out >= 0 &&
         (out == 0 || (out - 1) * stride + (kernel - 1) * dilation < padded);
}

inline bool valid(const abcfx_positions_args& args) {
  return args.planes >= 1 && args.planes <= ABCFX_MAX_BASES && args.channels >= 0 && args.images >= 0 &&
         reaches(args.padded_h, args.kernel_h, args.stride_h, args.dilation_h, args.out_h) &&
         reaches(args.padded_w, args.kernel_w, args.stride_w, args.dilation_w, args.out_w) &&
         (args.lanes == ABCFX_LANES || args.lanes == 32 || args.lanes == 64) && args.group_begin >= 0 &&
         args.group_end <= ceil_of(args.images * args.out_h * args.out_w, GROUP);
}

/// The first word of the pixels that tap 0 reads in plane 0, for 64 positions; past the last position, NULL.
inline int64_t rows_of(const abcfx_positions_args& args, const Plan& plan, int64_t group,
                       const uint64_t* (&rows)[GROUP]) {
  const int64_t first = group * GROUP, left = plan.depth - first, count = left < GROUP ? left : GROUP;
  int64_t x = first % args.out_w, y = first / args.out_w % args.out_h, n = first / args.out_w / args.out_h;
  for (int64_t r = 0; r < count; ++r) {
    const int64_t line = (n * args.padded_h + y * args.stride_h) * args.planes;
    rows[r] = args.src + line * plan.plane + x * args.stride_w * plan.words;
    if (++x == args.out_w) x = 0, ++y;
    if (y == args.out_h) y = 0, ++n;
  }
  for (int64_t r = count; r < GROUP; ++r) rows[r] = nullptr;
  return count;
}

/// Bytes of 64 positions of one block of the lookup layout, whatever its order: see abcfx/lut.h.
inline void place_bytes(const Plan& plan, int64_t lanes, int64_t q, int64_t block, const uint64_t* columns,
                        int64_t octets, uint8_t* dst) {
  const int64_t half = lanes / 2;
  for (int64_t c = 0; c < (plan.fold == 2 ? plan.columns : lanes); ++c) {
    const uint64_t word = columns[block * lanes + c];
    const int64_t byte = plan.fold == 2 ? 2 * c + q % 2 : 2 * (c % half) + c / half;
    for (int64_t o = 0; o < octets; ++o) dst[o * lanes + byte] = (uint8_t)(word >> 8 * o);
  }
}

/// The columns of one plane and 64 positions to their places in dst.
template <class V>
void place_columns(const abcfx_positions_args& args, const Plan& plan, int64_t group, int64_t q,
                   const uint64_t* columns) {
  const int64_t lanes = args.lanes;
  if (lanes == ABCFX_LANES) {
    uint64_t* dst = (uint64_t*)args.dst + (q * ceil_of(plan.depth, 64) + group) * lanes;
    const int64_t step = args.planes * ceil_of(plan.depth, 64) * lanes;
    for (int64_t b = 0; b < plan.blocks; ++b) memcpy(dst + b * step, columns + b * lanes, lanes * sizeof(uint64_t));
    return;
  }
  const int64_t left = plan.octets - 8 * group, octets = left < 8 ? left : 8;
  const int64_t step = plan.vectors * plan.octets * lanes;
  uint8_t* dst = (uint8_t*)args.dst + (q / plan.fold * plan.octets + 8 * group) * lanes;
  for (int64_t b = 0; b < plan.blocks; ++b, dst += step) {
    if (plan.fold == 2 && q % 2 == 0) memset(dst, 0, octets * lanes);  // bytes of no column, and of a missing plane
    if (lanes == 32 && plan.fold == 1) {
      V::place(columns + b * lanes, octets, dst);
    } else {
      place_bytes(plan, lanes, q, b, columns, octets, dst);
    }
  }
}

template <class V>
int pack_positions(const abcfx_positions_args& args) {
  if (!valid(args)) return ABCFX_BAD_SHAPE;
  const Plan plan(args);
  uint64_t* columns = (uint64_t*)args.scratch;
  memset(columns, 0, plan.room(args.lanes) * sizeof(uint64_t));
  for (int64_t group = args.group_begin; group < args.group_end; ++group) {
    const uint64_t* rows[GROUP];
    const int64_t count = rows_of(args, plan, group, rows);
    for (int64_t q = 0; q < args.planes; ++q) {
      // the words past the last channel write zeros over the next tap's first columns, which come later
      for (int64_t t = 0; t < plan.taps; ++t) {
        const int64_t tap = t / args.kernel_w * plan.tap_h + t % args.kernel_w * plan.tap_w + q * plan.plane;
        for (int64_t i = 0; i < plan.words; ++i) {
          V::transpose(rows, count, tap + i, columns + t * args.channels + 64 * i);
        }
      }
      int32_t* counts = args.counts + q * plan.columns;
      for (int64_t c = 0; c < plan.columns; ++c) counts[c] += __builtin_popcountll(columns[c]);
      place_columns<V>(args, plan, group, q, columns);
    }
  }
  return ABCFX_OK;
}

}  // namespace
