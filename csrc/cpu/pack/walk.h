#pragma once
#include "scalar.h"

// How the vector variants go through an image: which values lie side by side decides what a kernel is given. In a
// nameless namespace for the reason given in bgemm/window.h. A kernel is a class with
//
//   Value, AFFINE         element type; whether there is an affine
//   TILE, TILES           pixels of a tile, and how many tiles tiles() takes at once
//   ANY_COUNT             whether word() and tiles() read just what is asked for, or whole eights of channels and tiles
//   words(src, affine, n, pixels, step, dst, dst_step)   n full words from contiguous channels, to consecutive words of
//                                          every plane; for each of some pixels, `step` elements and dst_step words apart
//   word(src, affine, channels, dst)       one word of 1 to 64 contiguous channels
//   is_short(channels)                     whether short_words() takes words of so few channels,
//   short_words(src, step, affine, channels, n, dst)   n of them, `step` elements apart, several at a time
//   tiles(src, step, affine, channels, pixels, at, dst)   one word of each of some contiguous pixels, whose channels
//                                          are `step` apart; the word of pixel p goes to dst + at[p]
//
// Every dst is in plane 0; plane q is q * plane_step further.

/// For what a kernel is given: walk() calls it from several places.
#if defined(__clang__)
#define NOINLINE __attribute__((noinline))
#else
#define NOINLINE __attribute__((noinline, noclone))
#endif

namespace {

/// gain[c] and offset[c] from some channel on; NULL if the kernel has no affine.
struct Affine {
  const float* gain;
  const float* offset;

  Affine from(int64_t channel) const { return gain ? Affine{gain + channel, offset + channel} : *this; }
};

/// 64 channels of one pixel, contiguous whatever they were, with zeros after the last.
template <class T>
struct CopiedWord {
  T values[64] = {};
  float gain[64] = {}, offset[64] = {};

  CopiedWord(const T* src, int64_t step, const Affine& affine, int64_t count) {
    for (int64_t c = 0; c < count; ++c) values[c] = src[c * step];
    if (!affine.gain) return;
    memcpy(gain, affine.gain, sizeof(float) * count);
    memcpy(offset, affine.offset, sizeof(float) * count);
  }

  Affine affine(const Affine& original) const { return original.gain ? Affine{gain, offset} : original; }
};

/// `count` channels of `pixels` pixels, contiguous whatever they were; the last pixel is repeated up to a whole tile.
template <int64_t TILE, class T>
struct CopiedTile {
  T values[64 * TILE];

  CopiedTile(const T* src, int64_t stride_c, int64_t stride_w, int64_t count, int64_t pixels) {
    for (int64_t c = 0; c < count; ++c) {
      for (int64_t p = 0; p < TILE; ++p) {
        values[c * TILE + p] = src[c * stride_c + (p < pixels ? p : pixels - 1) * stride_w];
      }
    }
  }
};

template <class Kernel, class T>
NOINLINE void pack_word(const Kernel& kernel, const T* src, int64_t step, const Affine& affine, int64_t count,
                             uint64_t* dst) {
  if (step == 1 && (Kernel::ANY_COUNT || count % 8 == 0)) return kernel.word(src, affine, count, dst);
  const CopiedWord<T> copy(src, step, affine, count);
  kernel.word(copy.values, copy.affine(affine), count, dst);
}

/// One line, pixel by pixel: contiguous channels, or channels that lie nearer to each other than pixels do.
template <class Kernel, class T>
NOINLINE void pack_pixels(const Job& job, const Kernel& kernel, const T* src, const Affine& affine,
                               uint64_t* dst) {
  const abcfx_pack_args& args = *job.args;
  const int64_t pixels = args.pixel_end - args.pixel_begin, channels = job.group_channels;
  src += args.pixel_begin * args.stride_w;
  dst += args.pixel_begin * job.pixel;
  const bool dense = args.stride_c == 1 && args.stride_w == args.channels && !Kernel::AFFINE;
  if (dense && channels % 64 == 0) return kernel.words(src, affine, pixels * job.pixel, 1, 0, dst, 0);
  if (args.stride_c == 1 && Kernel::is_short(channels) && (dense || args.groups == 1)) {
    const int64_t step = args.groups == 1 ? args.stride_w : channels;
    return kernel.short_words(src, step, affine, channels, pixels * args.groups, dst);
  }
  const int64_t full = args.stride_c == 1 ? channels / 64 : 0;
  for (int64_t g = 0; g < args.groups; ++g, src += channels * args.stride_c, dst += job.words) {
    const Affine own = affine.from(g * channels);
    if (full) kernel.words(src, own, full, pixels, args.stride_w, dst, job.pixel);
    for (int64_t i = full; i < job.words; ++i) {
      const int64_t count = channels - 64 * i < 64 ? channels - 64 * i : 64;
      const T* values = src + 64 * i * args.stride_c;
      for (int64_t x = 0; x < pixels; ++x) {
        pack_word(kernel, values + x * args.stride_w, args.stride_c, own.from(64 * i), count, dst + x * job.pixel + i);
      }
    }
  }
}

/// A run of lines, block by block of contiguous pixels: each channel of a block is read from contiguous memory. Blocks
/// of less than a tile at the end of a run reach back into the one before; what is copied first are pixels that are not
/// contiguous, and runs of less than a tile.
template <class Kernel, class T>
NOINLINE void pack_blocks(const Job& job, const Kernel& kernel, const T* src, const Affine& affine, int64_t lines,
                          uint64_t* dst) {
  constexpr int64_t TILE = Kernel::TILE, BLOCK = TILE * Kernel::TILES;
  const abcfx_pack_args& args = *job.args;
  const int64_t begin = args.pixel_begin, stride_w = args.stride_w, stride_c = args.stride_c;
  const int64_t total = lines == 1 ? args.pixel_end - begin : lines * args.width;
  const bool copied = stride_w != 1 || (total < TILE && !Kernel::ANY_COUNT);
  const int64_t step = copied ? TILE : BLOCK;
  for (int64_t block = 0; block < total; block += step) {
    const int64_t end = block + step < total ? block + step : total;
    const int64_t start = copied || end - block >= TILE || end < TILE ? block : end - TILE, pixels = end - start;
    int64_t at[BLOCK], y = (begin + start) / args.width, x = (begin + start) % args.width;
    for (int64_t p = 0; p < pixels; ++p) {
      at[p] = y * job.line_step + x * job.pixel;
      if (++x == args.width) x = 0, ++y;
    }
    for (int64_t p = pixels; p < TILE; ++p) at[p] = at[pixels - 1];
    for_each_word(job, [&](int64_t channel, int64_t count, int64_t place) {
      const T* values = src + (begin + start) * stride_w + channel * stride_c;
      if (!copied) return kernel.tiles(values, stride_c, affine.from(channel), count, pixels, at, dst + place);
      const CopiedTile<TILE, T> copy(values, stride_c, stride_w, count, pixels);
      kernel.tiles(copy.values, TILE, affine.from(channel), count, TILE, at, dst + place);
    });
  }
}

template <class Kernel>
int walk(const Job& job, const Kernel& kernel) {
  using T = typename Kernel::Value;
  const abcfx_pack_args& args = *job.args;
  const Affine affine = {args.gain, args.offset};
  const bool by_pixel = args.stride_c == 1 || args.stride_c < args.stride_w;
  return for_each_run(job, [&](int64_t from, uint64_t* dst, int64_t lines) {
    const T* src = (const T*)args.src + from;
    if (!by_pixel) return pack_blocks(job, kernel, src, affine, lines, dst);
    for (int64_t y = 0; y < lines; ++y) {
      pack_pixels(job, kernel, src + y * args.stride_h, affine, dst + y * job.line_step);
    }
  });
}

}  // namespace
