#include "plan.h"

int abcfx_lut_pack(const abcfx_lut_pack_args* args) {
  const int64_t lanes = args->lanes, channels = args->channels, taps = args->taps, cols = args->cols;
  const int64_t pairs = ceil_of(channels, 8);
  if ((lanes != 32 && lanes != 64) || args->bases < 1 || args->bases > ABCFX_MAX_BASES || args->groups < 1 ||
      cols < 0 || taps < 0 || channels < 0 || args->block_begin < 0 ||
      args->block_end > args->groups * ceil_of(cols, lanes)) {
    return ABCFX_BAD_SHAPE;
  }
  const int64_t per_group = ceil_of(cols, lanes), fold = fold_of(cols, lanes), vectors = ceil_of(args->bases, fold);
  uint8_t* dst = args->dst + args->block_begin * vectors * taps * pairs * lanes;
  for (int64_t b = args->block_begin; b < args->block_end; ++b) {
    for (int64_t v = 0; v < vectors; ++v, dst += taps * pairs * lanes) {
      for (int64_t byte = 0; byte < lanes; ++byte) {
        const int64_t p = fold == 2 ? 2 * v + byte % 2 : v;
        const int64_t lane = fold == 2 ? byte / 2 : byte / 2 + byte % 2 * (lanes / 2);
        const int64_t col = b % per_group * lanes + lane;
        const bool real = p < args->bases && col < cols;
        const int8_t* src = args->src + ((p * args->groups + b / per_group) * cols + col) * taps * channels;
        for (int64_t t = 0; t < taps; ++t) {
          for (int64_t i = 0; i < pairs; ++i) {
            unsigned bits = 0;
            for (int64_t c = 8 * i; real && c < channels && c < 8 * i + 8; ++c) {
              bits |= (unsigned)(src[t * channels + c] < 0) << (c - 8 * i);
            }
            dst[(t * pairs + i) * lanes + byte] = (uint8_t)bits;
          }
        }
      }
    }
  }
  return ABCFX_OK;
}
