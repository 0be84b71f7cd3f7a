#include "abcfx/refit.h"

namespace {

constexpr int64_t CHANNELS = 256;  ///< worked on side by side, so that the loops over them are vectors

/// Channels [begin, begin + count) of one row and tap.
void tap_part(const abcfx_dequantize_args& args, int64_t o, int64_t t, int64_t begin, int64_t count, int32_t* totals) {
  const int64_t taps = args.taps, channels = args.channels;
  float sum[CHANNELS];
  for (int64_t p = 0; p < args.bases; ++p) {
    const int8_t* src = args.src + ((p * args.rows + o) * taps + t) * channels + begin;
    const float alpha = args.alpha[p * args.rows + o];
    int32_t total = 0;
    if (p == 0) {
      for (int64_t c = 0; c < count; ++c) sum[c] = alpha * (float)src[c];
    } else {
      for (int64_t c = 0; c < count; ++c) sum[c] += alpha * (float)src[c];
    }
    for (int64_t c = 0; c < count; ++c) total += src[c];
    totals[p] += total;
  }
  float* out = args.out + (o * channels + begin) * taps + t;
  for (int64_t c = 0; c < count; ++c) out[c * taps] = sum[c];
}

}  // namespace

int abcfx_dequantize_rows(const struct abcfx_dequantize_args* args) {
  if (args->bases < 1 || args->bases > ABCFX_MAX_BASES || args->row_begin < 0 || args->row_end > args->rows) {
    return ABCFX_BAD_SHAPE;
  }
  for (int64_t o = args->row_begin; o < args->row_end; ++o) {
    for (int64_t t = 0; t < args->taps; ++t) {
      int32_t totals[ABCFX_MAX_BASES] = {};
      for (int64_t begin = 0; begin < args->channels; begin += CHANNELS) {
        const int64_t left = args->channels - begin;
        tap_part(*args, o, t, begin, left < CHANNELS ? left : CHANNELS, totals);
      }
      double sum = 0;
      for (int64_t p = 0; p < args->bases; ++p) sum += (double)args->alpha[p * args->rows + o] * totals[p];
      args->tap_sums[o * args->taps + t] = (float)sum;
    }
  }
  return ABCFX_OK;
}
