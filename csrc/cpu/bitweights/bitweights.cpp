#include "abcfx/bitweights.h"

namespace {

uint64_t word_of(const int8_t* values, int64_t count) {
  uint64_t word = 0;
  for (int64_t b = 0; b < count; ++b) word |= (uint64_t)(values[b] < 0) << b;
  return word;
}

}  // namespace

int abcfx_bitweights_pack(const struct abcfx_bitweights_args* args) {
  const int64_t channels = args->channels, taps = args->taps, cols = args->cols;
  const int64_t words = (channels + 63) / 64, blocks = (cols + ABCFX_LANES - 1) / ABCFX_LANES;
  if (args->bases < 1 || args->bases > ABCFX_MAX_BASES || args->groups < 1 || cols < 0 || taps < 0 || channels < 0 ||
      args->block_begin < 0 || args->block_end > args->groups * blocks) {
    return ABCFX_BAD_SHAPE;
  }
  for (int64_t b = args->block_begin; b < args->block_end; ++b) {
    const int64_t group = b / blocks, block = b % blocks;
    for (int64_t p = 0; p < args->bases; ++p) {
      uint64_t* dst = args->dst + (b * args->bases + p) * taps * words * ABCFX_LANES;
      for (int64_t lane = 0; lane < ABCFX_LANES; ++lane) {
        const int64_t col = block * ABCFX_LANES + lane;
        const int8_t* src = args->src + ((p * args->groups + group) * cols + col) * taps * channels;
        for (int64_t t = 0; t < taps; ++t) {
          for (int64_t i = 0; i < words; ++i) {
            const int64_t left = channels - 64 * i;
            const int8_t* values = src + t * channels + 64 * i;
            dst[(t * words + i) * ABCFX_LANES + lane] = col < cols ? word_of(values, left < 64 ? left : 64) : 0;
          }
        }
      }
    }
  }
  return ABCFX_OK;
}
