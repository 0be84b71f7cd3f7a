#include <string.h>

#include "plan.h"

namespace {

/// Weight bits of eight channels (or the `channels` < 8 that are left) of `cols` output channels, a byte for each.
void octet(const abcfx_lut_pack_args& args, const int8_t* src, int64_t channels, int64_t cols, uint8_t* bytes) {
  if (args.stride_c == 1 && channels == 8) {  // eight sign bits come together in the upper byte of a product
    for (int64_t col = 0; col < cols; ++col) {
      uint64_t signs = 0;
      for (int b = 0; b < 8; ++b) signs |= (uint64_t)(uint8_t)src[col * args.stride_o + b] << 8 * b;
      bytes[col] = (uint8_t)((signs >> 7 & 0x0101010101010101) * 0x0102040810204080 >> 56);
    }
    return;
  }
  memset(bytes, 0, (size_t)cols);
  for (int64_t c = 0; c < channels; ++c) {
    const int8_t* row = src + c * args.stride_c;
    if (args.stride_o == 1) {  // apart from the other case so that it becomes vector instructions
      for (int64_t col = 0; col < cols; ++col) bytes[col] |= (uint8_t)((row[col] < 0) << c);
    } else {
      for (int64_t col = 0; col < cols; ++col) bytes[col] |= (uint8_t)((row[col * args.stride_o] < 0) << c);
    }
  }
}

/// Bytes of `lanes` output channels to their places in a vector; folded, of the real ones to every other place.
void place(const uint8_t* bytes, int64_t lanes, int64_t cols, bool folded, uint8_t* dst) {
  const int64_t half = lanes / 2;
  for (int64_t i = 0; folded && i < cols; ++i) dst[2 * i] = bytes[i];
  for (int64_t i = 0; !folded && i < half; ++i) dst[2 * i] = bytes[i], dst[2 * i + 1] = bytes[half + i];
}

}  // namespace

int abcfx_lut_pack(const abcfx_lut_pack_args* args) {
  const int64_t lanes = args->lanes, channels = args->channels, taps = args->taps, cols = args->cols;
  const int64_t pairs = ceil_of(channels, 8), per_group = ceil_of(cols, lanes);
  if ((lanes != 32 && lanes != 64) || args->bases < 1 || args->bases > ABCFX_MAX_BASES || args->groups < 1 ||
      cols < 0 || taps < 0 || channels < 0 || args->block_begin < 0 || args->block_end > args->groups * per_group) {
    return ABCFX_BAD_SHAPE;
  }
  const int64_t fold = fold_of(cols, lanes), vectors = ceil_of(args->bases, fold), vector_bytes = taps * pairs * lanes;
  for (int64_t b = args->block_begin; b < args->block_end; ++b) {
    const int64_t first = b % per_group * lanes, left = cols - first, real = left < lanes ? left : lanes;
    uint8_t* block = args->dst + b * vectors * vector_bytes;
    if (fold == 2) memset(block, 0, (size_t)(vectors * vector_bytes));  // bytes of no output channel or plane
    for (int64_t p = 0; p < args->bases; ++p) {
      const int8_t* src = args->src + p * args->stride_p + (b / per_group * cols + first) * args->stride_o;
      uint8_t* dst = block + p / fold * vector_bytes + (fold == 2 ? p % 2 : 0);
      for (int64_t t = 0; t < taps; ++t) {
        for (int64_t i = 0; i < pairs; ++i, dst += lanes) {
          uint8_t bytes[64] = {};
          const int64_t rest = channels - 8 * i;
          octet(*args, src + t * args->stride_t + 8 * i * args->stride_c, rest < 8 ? rest : 8, real, bytes);
          place(bytes, lanes, real, fold == 2, dst);
        }
      }
    }
  }
  return ABCFX_OK;
}
