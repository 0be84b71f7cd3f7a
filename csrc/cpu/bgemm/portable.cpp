// Any machine: the popcount is done in 64-bit arithmetic over the eight channels of a block side by side, a loop that
// compilers turn into whatever vectors the target has.
#include "window.h"

namespace {

/// Sums of bits in pairs, nibbles, bytes; the multiplication adds the eight bytes into the top one.
inline uint64_t popcount(uint64_t v) {
  v -= (v >> 1) & 0x5555555555555555u;
  v = (v & 0x3333333333333333u) + ((v >> 2) & 0x3333333333333333u);
  v = (v + (v >> 4)) & 0x0f0f0f0f0f0f0f0fu;
  return (v * 0x0101010101010101u) >> 56;
}

/// counts[lane] = popcount(a ^ w) over one window, eight channels at once.
void count_window(const Window& window, const uint64_t* a, const uint64_t* w, uint64_t* counts) {
  for (int lane = 0; lane < ABCFX_LANES; ++lane) counts[lane] = 0;
  for (int64_t y = 0; y < window.lines; ++y) {
    for (int64_t x = 0; x < window.segments; ++x) {
      const uint64_t* segment = a + y * window.line_step + x * window.segment_step;
      for (int64_t i = 0; i < window.run; ++i, w += ABCFX_LANES) {
        for (int lane = 0; lane < ABCFX_LANES; ++lane) counts[lane] += popcount(segment[i] ^ w[lane]);
      }
    }
  }
}

}  // namespace

extern "C" int abcfx_bgemm_portable(const abcfx_bgemm_args* args) {
  if (!valid(*args)) return ABCFX_BAD_SHAPE;
  const Window window = window_of(*args);
  const int64_t channels = args->groups * args->cols;
  for (int64_t b = args->block_begin; b < args->block_end; ++b) {
    const Block block = block_of(*args, b);
    for (int64_t row = args->row_begin; row < args->row_end; ++row) {
      const Cursor at = cursor_at(*args, row);
      const uint64_t* a = window_base(*args, at) + block.group * args->words;
      const float* base = base_of(*args, at) + block.channel;
      float sum[ABCFX_LANES] = {};
      for (int64_t lane = 0; lane < block.count; ++lane) sum[lane] = base[lane];
      for (int64_t p = 0; p < args->weight_bases; ++p) {
        const uint64_t* w = args->w + (b * args->weight_bases + p) * window.words * ABCFX_LANES;
        float inner[ABCFX_LANES] = {};
        for (int64_t q = 0; q < args->activation_bases; ++q) {
          uint64_t counts[ABCFX_LANES];
          count_window(window, a + q * window.plane_step, w, counts);
          for (int lane = 0; lane < ABCFX_LANES; ++lane) {
            inner[lane] += args->beta[q] * (float)(args->depth - 2 * (int64_t)counts[lane]);
          }
        }
        const float* alpha = args->alpha + p * channels + block.channel;
        for (int64_t lane = 0; lane < block.count; ++lane) sum[lane] += alpha[lane] * inner[lane];
      }
      float* dst = args->dst + row * channels + block.channel;
      for (int64_t lane = 0; lane < block.count; ++lane) dst[lane] = sum[lane];
    }
  }
  return ABCFX_OK;
}
