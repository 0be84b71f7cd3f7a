#pragma once
#include "scalar.h"

// How the variants go through an image: which values lie side by side decides what a kernel is given. In a nameless
// namespace for the reason given in bgemm/window.h.

namespace {

/// gain[c] and offset[c] from some channel on, and the limits after them; NULL if the kernel has no affine.
struct Affine {
  const float* gain;
  const float* offset;
  float low, high;

  Affine from(int64_t channel) const { return gain ? Affine{gain + channel, offset + channel, low, high} : *this; }
};

/// What a variant does, for one element type and one way to quantize. It is called for a line or a block, through a
/// pointer, so that the walk below is compiled once and not for each of some dozen kernels. Every dst is in plane 0.
template <class T>
struct Kernel {
  /// n full words from contiguous channels, to consecutive words of every plane; for each of some pixels, `step`
  /// elements and dst_step words apart.
  virtual void words(const T* src, const Affine& affine, int64_t n, int64_t pixels, int64_t step, uint64_t* dst,
                     int64_t dst_step) const = 0;
  /// One word of 1 to 64 contiguous channels.
  virtual void word(const T* src, const Affine& affine, int64_t channels, uint64_t* dst) const = 0;
  /// n words of so few channels that Traits::is_short() says yes, `step` elements apart, several at a time.
  virtual void short_words(const T* src, int64_t step, const Affine& affine, int64_t channels, int64_t n,
                           uint64_t* dst) const = 0;
  /// One word of each of up to TILE * TILES contiguous pixels, whose channels are `step` apart, to dst + at[pixel].
  virtual void tiles(const T* src, int64_t step, const Affine& affine, int64_t channels, int64_t pixels,
                     const int64_t* at, uint64_t* dst) const = 0;
};

// Traits of a variant:
//   TILE, TILES     pixels of a tile, and how many tiles tiles() takes at once
//   ANY_COUNT       whether word() and tiles() read just what is asked for, or whole eights of channels and tiles
//   is_short(c)     whether short_words() takes words of c channels

/// Asks for the next tile of a channel: a block is too short for the hardware to notice that a new stream has begun.
template <int TILE, class T>
inline void prefetch(const T* next) {
  for (size_t byte = 0; byte < TILE * sizeof(T); byte += 64) __builtin_prefetch((const char*)next + byte);
}

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

  Affine affine(const Affine& original) const { return original.gain ? Affine{gain, offset, original.low, original.high} : original; }
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

template <class Traits, class T>
void pack_word(const Kernel<T>& kernel, const T* src, int64_t step, const Affine& affine, int64_t count,
               uint64_t* dst) {
  if (step == 1 && (Traits::ANY_COUNT || count % 8 == 0)) return kernel.word(src, affine, count, dst);
  const CopiedWord<T> copy(src, step, affine, count);
  kernel.word(copy.values, copy.affine(affine), count, dst);
}

/// One line, pixel by pixel: contiguous channels, or channels that lie nearer to each other than pixels do.
template <class Traits, class T>
void pack_pixels(const Job& job, const Kernel<T>& kernel, const T* src, const Affine& affine, uint64_t* dst) {
  const abcfx_pack_args& args = *job.args;
  const int64_t pixels = args.pixel_end - args.pixel_begin, channels = job.group_channels;
  src += args.pixel_begin * args.stride_w;
  dst += args.pixel_begin * job.pixel;
  const bool dense = args.stride_c == 1 && args.stride_w == args.channels && !affine.gain;
  if (dense && channels % 64 == 0) return kernel.words(src, affine, pixels * job.pixel, 1, 0, dst, 0);
  if (args.stride_c == 1 && Traits::is_short(channels) && (dense || args.groups == 1)) {
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
        pack_word<Traits>(kernel, values + x * args.stride_w, args.stride_c, own.from(64 * i), count,
                          dst + x * job.pixel + i);
      }
    }
  }
}

/// A run of lines, block by block of contiguous pixels: each channel of a block is read from contiguous memory. Blocks
/// of less than a tile at the end of a run reach back into the one before; what is copied first are pixels that are not
/// contiguous, and runs of less than a tile.
template <class Traits, class T>
void pack_blocks(const Job& job, const Kernel<T>& kernel, const T* src, const Affine& affine, int64_t lines,
                 uint64_t* dst) {
  constexpr int64_t TILE = Traits::TILE, BLOCK = TILE * Traits::TILES;
  const abcfx_pack_args& args = *job.args;
  const int64_t begin = args.pixel_begin, stride_w = args.stride_w, stride_c = args.stride_c;
  const int64_t total = lines == 1 ? args.pixel_end - begin : lines * args.width;
  const bool copied = stride_w != 1 || (total < TILE && !Traits::ANY_COUNT);
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

template <class Traits, class T>
int walk(const Job& job, const Kernel<T>& kernel) {
  const abcfx_pack_args& args = *job.args;
  const Affine affine = {args.gain, args.offset, job.low, job.high};
  const bool by_pixel = args.stride_c == 1 || args.stride_c < args.stride_w;
  return for_each_run(job, [&](int64_t from, uint64_t* dst, int64_t lines) {
    const T* src = (const T*)args.src + from;
    if (!by_pixel) return pack_blocks<Traits>(job, kernel, src, affine, lines, dst);
    for (int64_t y = 0; y < lines; ++y) {
      pack_pixels<Traits>(job, kernel, src + y * args.stride_h, affine, dst + y * job.line_step);
    }
  });
}

}  // namespace
