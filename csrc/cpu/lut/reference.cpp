// The loop a student would write, from the same packed bytes; what the other variants are tested against.
#include "plan.h"

namespace {

constexpr int64_t LANES = 32;

struct Output {
  const abcfx_lut_args& args;
  Cursor at;
  int64_t group, block, lane;

  /// Weight sign of channel c under tap t in plane p.
  int32_t weight(int64_t p, int64_t t, int64_t c) const {
    const int64_t taps = args.product.kernel_h * args.product.kernel_w, pairs = ceil_of(args.channels, 8);
    const int64_t fold = fold_of(args.product.cols, LANES), vectors = ceil_of(args.product.weight_bases, fold);
    const int64_t byte = fold == 2 ? 2 * lane + p % 2 : 2 * (lane % (LANES / 2)) + lane / (LANES / 2);
    const uint8_t bits = args.w[(((block * vectors + p / fold) * taps + t) * pairs + c / 8) * LANES + byte];
    return bits >> (c % 8) & 1 ? -1 : 1;
  }

  /// Activation sign of channel c under tap (ky, kx) in plane q.
  int32_t activation(int64_t q, int64_t ky, int64_t kx, int64_t c) const {
    const abcfx_bgemm_args& p = args.product;
    const int64_t line = at.n * p.padded_h + at.y * p.stride_h + ky * p.dilation_h;
    const int64_t x = at.x * p.stride_w + kx * p.dilation_w;
    const uint64_t* word = p.a + ((line * p.activation_bases + q) * p.padded_w + x) * p.groups * p.words;
    return word[group * p.words + c / 64] >> (c % 64) & 1 ? -1 : 1;
  }

  int32_t dot(int64_t q, int64_t p) const {
    int32_t sum = 0;
    for (int64_t ky = 0; ky < args.product.kernel_h; ++ky) {
      for (int64_t kx = 0; kx < args.product.kernel_w; ++kx) {
        for (int64_t c = 0; c < args.channels; ++c) {
          sum += weight(p, ky * args.product.kernel_w + kx, c) * activation(q, ky, kx, c);
        }
      }
    }
    return sum;
  }
};

}  // namespace

extern "C" int abcfx_lut_reference(const abcfx_lut_args* args) {
  if (!valid(*args, LANES)) return ABCFX_BAD_SHAPE;
  const abcfx_bgemm_args& product = args->product;
  const int64_t per_group = ceil_of(product.cols, LANES), channels = product.groups * product.cols;
  for (int64_t row = product.row_begin; row < product.row_end; ++row) {
    const Cursor at = cursor_at(product, row);
    for (int64_t b = product.block_begin; b < product.block_end; ++b) {
      for (int64_t lane = 0; lane < LANES && b % per_group * LANES + lane < product.cols; ++lane) {
        const Output output{*args, at, b / per_group, b, lane};
        const int64_t o = output.group * product.cols + b % per_group * LANES + lane;
        float sum = base_of(product, at)[o];
        for (int64_t p = 0; p < product.weight_bases; ++p) {
          float inner = 0.0f;
          for (int64_t q = 0; q < product.activation_bases; ++q) inner += product.beta[q] * (float)output.dot(q, p);
          sum += product.alpha[p * channels + o] * inner;
        }
        product.dst[row * channels + o] = sum;
      }
    }
  }
  return ABCFX_OK;
}
