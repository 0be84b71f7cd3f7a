#pragma once
#include "scalar.h"

// How the vector variants go through an image: which values lie side by side decides what a kernel is given. In a
// nameless namespace for the reason given in bgemm/window.h. A kernel is a class with
//
//   Value, AFFINE, TILE   element type; whether there is an affine; pixels of a tile
//   ANY_COUNT             whether word() and tile() read just what is asked for, or eights of channels and whole tiles
//   words(src, affine, n, dst)             n full words from contiguous channels, to consecutive words of every plane
//   word(src, affine, channels, dst)       one word of 1 to 64 contiguous channels
//   is_short(channels)                     whether short_words() takes words of so few channels,
//   short_words(src, step, affine, channels, n, dst)   n of them, `step` elements apart, several at a time
//   tile(src, step, affine, channels, pixels, at, dst) one word of TILE contiguous pixels, whose channels are `step`
//                                          apart; the word of pixel p goes to dst + at[p]
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
  if (dense && channels % 64 == 0) return kernel.words(src, affine, pixels * job.pixel, dst);
  if (args.stride_c == 1 && Kernel::is_short(channels) && (dense || args.groups == 1)) {
    const int64_t step = args.groups == 1 ? args.stride_w : channels;
    return kernel.short_words(src, step, affine, channels, pixels * args.groups, dst);
  }
  const int64_t full = args.stride_c == 1 ? channels / 64 : 0;
  for (int64_t x = 0; x < pixels; ++x, src += args.stride_w, dst += job.pixel) {
    for (int64_t g = 0; g < args.groups; ++g) {
      const int64_t first = g * channels;
      uint64_t* words = dst + g * job.words;
      if (full) kernel.words(src + first, affine.from(first), full, words);
      for (int64_t i = full; i < job.words; ++i) {
        const int64_t channel = first + 64 * i, left = channels - 64 * i;
        pack_word(kernel, src + channel * args.stride_c, args.stride_c, affine.from(channel), left < 64 ? left : 64,
                  words + i);
      }
    }
  }
}

/// A run of lines in tiles of pixels: each channel of a tile is read from contiguous memory. The last tile ends with the
/// run, so it overlaps the one before. What is copied first are pixels that are not contiguous, and runs shorter than a
/// tile, which then repeats its last pixel.
template <class Kernel, class T>
NOINLINE void pack_tiles(const Job& job, const Kernel& kernel, const T* src, const Affine& affine, int64_t lines,
                              uint64_t* dst) {
  constexpr int64_t TILE = Kernel::TILE;
  const abcfx_pack_args& args = *job.args;
  const int64_t width = args.width, begin = args.pixel_begin, stride_w = args.stride_w, stride_c = args.stride_c;
  const int64_t total = lines == 1 ? args.pixel_end - begin : lines * width;
  for (int64_t tile = 0; tile < total; tile += TILE) {
    const int64_t pixels = total < TILE ? total : TILE;
    const int64_t start = begin + (tile + pixels < total ? tile : total - pixels);
    int64_t at[TILE], y = start / width, x = start % width;
    for (int64_t p = 0; p < TILE; ++p) {
      at[p] = y * job.line_step + x * job.pixel;
      if (p + 1 < pixels && ++x == width) x = 0, ++y;
    }
    const bool whole = pixels == TILE || Kernel::ANY_COUNT;
    for_each_word(job, [&](int64_t channel, int64_t count, int64_t place) {
      const T* values = src + start * stride_w + channel * stride_c;
      if (stride_w == 1 && whole) {
        return kernel.tile(values, stride_c, affine.from(channel), count, pixels, at, dst + place);
      }
      T copy[64 * TILE] = {};
      for (int64_t c = 0; c < count; ++c) {
        for (int64_t p = 0; p < pixels; ++p) copy[c * TILE + p] = values[c * stride_c + p * stride_w];
        for (int64_t p = pixels; p < TILE; ++p) copy[c * TILE + p] = copy[c * TILE + pixels - 1];
      }
      kernel.tile(copy, TILE, affine.from(channel), count, pixels, at, dst + place);
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
    if (!by_pixel) return pack_tiles(job, kernel, src, affine, lines, dst);
    for (int64_t y = 0; y < lines; ++y) {
      pack_pixels(job, kernel, src + y * args.stride_h, affine, dst + y * job.line_step);
    }
  });
}

}  // namespace
