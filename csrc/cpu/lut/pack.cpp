#include "plan.h"

int abcfx_lut_pack(const abcfx_lut_pack_args* args) {
  const int64_t lanes = args->lanes, channels = args->channels, taps = args->taps, cols = args->cols;
  const int64_t pairs = ceil_of(channels, 8);
  if ((lanes != 32 && lanes != 64) || args->bases < 1 || args->bases > ABCFX_MAX_BASES || args->groups < 1 ||
      cols < 0 || taps < 0 || channels < 0 || args->block_begin < 0 ||
      args->block_end > args->groups * ceil_of(cols, lanes)) {
    return ABCFX_BAD_SHAPE;
  }
  const int64_t per_group = ceil_of(cols, lanes);
  for (int64_t b = args->block_begin; b < args->block_end; ++b) {
    for (int64_t p = 0; p < args->bases; ++p) {
      uint8_t* dst = args->dst + (b * args->bases + p) * taps * pairs * lanes;
      for (int64_t lane = 0; lane < lanes; ++lane) {
        const int64_t col = b % per_group * lanes + lane;
        const int8_t* src = args->src + ((p * args->groups + b / per_group) * cols + col) * taps * channels;
        uint8_t* byte = dst + 2 * (lane % (lanes / 2)) + lane / (lanes / 2);
        for (int64_t t = 0; t < taps; ++t) {
          for (int64_t i = 0; i < pairs; ++i, byte += lanes) {
            unsigned bits = 0;
            for (int64_t c = 8 * i; col < cols && c < channels && c < 8 * i + 8; ++c) {
              bits |= (unsigned)(src[t * channels + c] < 0) << (c - 8 * i);
            }
            *byte = (uint8_t)bits;
          }
        }
      }
    }
  }
  return ABCFX_OK;
}
