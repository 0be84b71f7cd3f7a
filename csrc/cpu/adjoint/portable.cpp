// Any machine: eight elements a byte of bits. Factors of 0 and 1 are multiplied with, not selected by, as in
// abcfx/quant/ste.py: an infinite gradient outside of a window is a NaN, which whoever looks for overflow must see.
#include "walk.h"

namespace {

struct Portable {
  static void coded(const float* grad, const uint8_t* inside, const uint8_t* bit, float* dx, float part[3][LANES]) {
    float signed_sum[LANES] = {}, above_sum[LANES] = {}, outside_sum[LANES] = {};
    for (int64_t i = 0; i < BLOCK_BYTES; ++i) {
      const int in = inside[i], set = bit[i];
      for (int b = 0; b < LANES; ++b) {
        const float within = (float)(in >> b & 1), up = (float)(set >> b & 1), g = grad[8 * i + b];
        const float inner = g * within, outer = g * (1.0f - within);
        dx[8 * i + b] = inner;
        signed_sum[b] += inner * (2.0f * up - 1.0f);
        above_sum[b] += outer * up;
        outside_sum[b] += outer;
      }
    }
    memcpy(part[0], signed_sum, sizeof(signed_sum));
    memcpy(part[1], above_sum, sizeof(above_sum));
    memcpy(part[2], outside_sum, sizeof(outside_sum));
  }

  static void thermometer(const float* grad, const uint8_t* window, const uint8_t* minus, float beta, bool first,
                          float* dx, float part[2][LANES]) {
    float signed_sum[LANES] = {}, window_sum[LANES] = {};
    for (int64_t i = 0; i < BLOCK_BYTES; ++i) {
      const int in = window[i], negative = minus[i];
      for (int b = 0; b < LANES; ++b) {
        const float g = grad[8 * i + b], inner = g * (float)(in >> b & 1);
        dx[8 * i + b] = (first ? 0.0f : dx[8 * i + b]) + beta * inner;
        signed_sum[b] += g * (1.0f - 2.0f * (float)(negative >> b & 1));
        window_sum[b] += inner;
      }
    }
    memcpy(part[0], signed_sum, sizeof(signed_sum));
    memcpy(part[1], window_sum, sizeof(window_sum));
  }
};

}  // namespace

extern "C" int abcfx_adjoint_portable(const abcfx_adjoint_args* args) { return run<Portable>(*args); }
