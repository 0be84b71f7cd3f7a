#pragma once
#include <string.h>

#include "abcfx/round.h"

// What the rounding variants share: the hash and the way through the image. In a nameless namespace for the reason
// given in bgemm/window.h.

namespace {

constexpr uint32_t FIRST_FACTOR = 0x7feb352d, SECOND_FACTOR = 0x846ca68b;  // abcfx/quant/gradients.py

inline uint32_t mixed(uint32_t x, uint32_t key = 0) {
  x = (x ^ x >> 16) * FIRST_FACTOR;
  x = (x ^ x >> 15 ^ key) * SECOND_FACTOR;
  return x ^ x >> 16;
}

/// The two keys that a seed gives: hash(seed, i) = mixed(i + first, second).
struct Keys {
  uint32_t first, second;

  explicit Keys(int64_t seed)
      : first(mixed((uint32_t)seed ^ mixed((uint32_t)((uint64_t)seed >> 32)))), second(mixed(first + 0x9e3779b9)) {}
};

/// The smallest and the largest code.
struct Range {
  float low, high;

  explicit Range(int64_t planes)
      : low(planes == 1 ? -1.0f : -(float)(1 << (planes - 1))), high(planes == 1 ? 1.0f : -low - 1.0f) {}
};

inline bool valid(const abcfx_round_args& args) {
  return args.planes >= 1 && args.planes <= ABCFX_MAX_BASES && args.gains >= 1 && args.images >= 0 &&
         args.channels >= 0 && args.height >= 0 && args.width >= 0 && args.pixel_begin >= 0 &&
         args.pixel_end <= args.images * args.height * args.width;
}

/// Contiguous channels [channel, channel + count) of one pixel, for each gain.
template <class Round>
inline void round_pixel(const abcfx_round_args& args, const Round& round, const float* src, int64_t pixel,
                        int64_t channel, int64_t count, float inverse) {
  for (int64_t p = 0; p < args.gains; ++p) {
    const int64_t place = (pixel * args.gains + p) * args.channels + channel;
    round(src, args.gain + p * args.channels + channel, inverse, (uint32_t)place, count, args.dst + place);
  }
}

/// Pixels whose channels are not contiguous: sixteen pixels of 64 channels are copied, then rounded one by one.
template <class Round>
inline void round_tiles(const abcfx_round_args& args, const Round& round, const float* src, int64_t first,
                        int64_t pixels, float inverse) {
  constexpr int64_t PIXELS = 16, CHANNELS = 64;
  for (int64_t begin = 0; begin < pixels; begin += PIXELS) {
    const int64_t many = pixels - begin < PIXELS ? pixels - begin : PIXELS;
    for (int64_t channel = 0; channel < args.channels; channel += CHANNELS) {
      const int64_t count = args.channels - channel < CHANNELS ? args.channels - channel : CHANNELS;
      float tile[PIXELS][CHANNELS];
      for (int64_t c = 0; c < count; ++c) {
        const float* row = src + begin * args.stride_w + (channel + c) * args.stride_c;
        for (int64_t x = 0; x < many; ++x) tile[x][c] = row[x * args.stride_w];
      }
      for (int64_t x = 0; x < many; ++x) {
        round_pixel(args, round, tile[x], first + begin + x, channel, count, inverse);
      }
    }
  }
}

/// Lines of pixels, or whole images where a line begins a pixel's step after the one before ends.
template <class Round>
int walk(const abcfx_round_args& args, const Round& round) {
  const bool joined = args.stride_h == args.width * args.stride_w;
  const int64_t width = joined ? args.width * args.height : args.width, height = joined ? 1 : args.height;
  for (int64_t pixel = args.pixel_begin; pixel < args.pixel_end;) {
    const int64_t x = pixel % width, line = pixel / width, n = line / height;
    const int64_t left = args.pixel_end - pixel, pixels = left < width - x ? left : width - x;
    const float* src = args.src + n * args.stride_n + line % height * args.stride_h + x * args.stride_w;
    const float inverse = args.inverse[n * args.inverse_step];
    if (args.stride_c == 1) {
      for (int64_t i = 0; i < pixels; ++i) {
        round_pixel(args, round, src + i * args.stride_w, pixel + i, 0, args.channels, inverse);
      }
    } else {
      round_tiles(args, round, src, pixel, pixels, inverse);
    }
    pixel += pixels;
  }
  return ABCFX_OK;
}

}  // namespace
