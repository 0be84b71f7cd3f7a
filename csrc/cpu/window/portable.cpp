// Any machine: the bits of eight values become a byte, plane by plane.
#include "dither.h"
#include "walk.h"

namespace {

/// rintf without a call, for 0 <= t < 2^22: the sum has no bits left for a fraction.
inline float rounded(float t) { return (t + 0x1.8p23f) - 0x1.8p23f; }

struct Portable {
  template <class T>
  static void coded(const T* src, uint32_t first, float shift, float inverse, float top, uint8_t* low, uint8_t* high) {
    for (int64_t i = 0; i < BLOCK_BYTES; ++i) {
      unsigned inside = 0, bit = 0;
      for (unsigned b = 0; b < 8; ++b) {
        const float t = (widen(src[8 * i + b]) - shift) * inverse;
        const float u = (float)(int32_t)(dither_hash(first + (uint32_t)(8 * i) + b) >> 8) * 0x1p-24f;
        const bool within = (t >= 0.0f) & (t <= top), up = (rounded(t) - t) + 0.5f > u;
        inside |= (unsigned)within << b;
        bit |= (unsigned)((within & up) | (t > top)) << b;
      }
      low[i] = (uint8_t)inside;
      high[i] = (uint8_t)bit;
    }
  }

  template <class T>
  static void thermometer(const T* src, Edges edges, float threshold, uint8_t* low, uint8_t* high) {
    for (int64_t i = 0; i < BLOCK_BYTES; ++i) {
      unsigned window = 0, minus = 0;
      for (unsigned b = 0; b < 8; ++b) {
        const float x = widen(src[8 * i + b]);
        window |= (unsigned)((x >= edges.least) & (x <= edges.greatest)) << b;
        minus |= (unsigned)!(x >= threshold) << b;
      }
      low[i] = (uint8_t)window;
      high[i] = (uint8_t)minus;
    }
  }
};

}  // namespace

extern "C" int abcfx_window_portable(const abcfx_window_args* args) { return run<Portable>(*args); }
