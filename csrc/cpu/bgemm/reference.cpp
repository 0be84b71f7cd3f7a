// The loop a student would write. It stays: it is what the other variants are tested against.
#include "window.h"

namespace {

/// popcount(a[q] ^ w[p]) over the window of one output pixel, for one output channel.
int32_t popcount(const abcfx_bgemm_args& args, const Cursor& at, const Block& block, int64_t block_index, int64_t lane,
                 int64_t q, int64_t p) {
  const int64_t taps = args.kernel_h * args.kernel_w, pixel = args.groups * args.words;
  const uint64_t* w = args.w + (block_index * args.weight_bases + p) * taps * args.words * ABCFX_LANES + lane;
  int32_t count = 0;
  for (int64_t ky = 0; ky < args.kernel_h; ++ky) {
    for (int64_t kx = 0; kx < args.kernel_w; ++kx) {
      const int64_t y = at.y * args.stride_h + ky * args.dilation_h, x = at.x * args.stride_w + kx * args.dilation_w;
      const int64_t line = (at.n * args.padded_h + y) * args.activation_bases + q;
      const uint64_t* a = args.a + (line * args.padded_w + x) * pixel + block.group * args.words;
      for (int64_t i = 0; i < args.words; ++i) {
        count += __builtin_popcountll(a[i] ^ w[((ky * args.kernel_w + kx) * args.words + i) * ABCFX_LANES]);
      }
    }
  }
  return count;
}

template <class Visit>
int for_each_output(const abcfx_bgemm_args& args, const Visit& visit) {
  if (!valid(args)) return ABCFX_BAD_SHAPE;
  for (int64_t row = args.row_begin; row < args.row_end; ++row) {
    const Cursor at = cursor_at(args, row);
    for (int64_t b = args.block_begin; b < args.block_end; ++b) {
      const Block block = block_of(args, b);
      for (int64_t lane = 0; lane < block.count; ++lane) visit(row, at, b, block, lane);
    }
  }
  return ABCFX_OK;
}

}  // namespace

extern "C" int abcfx_bgemm_reference(const abcfx_bgemm_args* args) {
  return for_each_output(*args, [&](int64_t row, const Cursor& at, int64_t b, const Block& block, int64_t lane) {
    const int64_t channels = args->groups * args->cols, o = block.channel + lane;
    float sum = base_of(*args, at)[o];
    for (int64_t p = 0; p < args->weight_bases; ++p) {
      float inner = 0.0f;
      for (int64_t q = 0; q < args->activation_bases; ++q) {
        inner += args->beta[q] * (float)(args->depth - 2 * popcount(*args, at, block, b, lane, q, p));
      }
      sum += args->alpha[p * channels + o] * inner;
    }
    args->dst[row * channels + o] = sum;
  });
}

int abcfx_bgemm_popcounts_reference(const abcfx_bgemm_args* args, int32_t* dst) {
  return for_each_output(*args, [&](int64_t row, const Cursor& at, int64_t b, const Block& block, int64_t lane) {
    const int64_t channels = args->groups * args->cols, o = block.channel + lane;
    for (int64_t q = 0; q < args->activation_bases; ++q) {
      for (int64_t p = 0; p < args->weight_bases; ++p) {
        dst[((row * args->activation_bases + q) * args->weight_bases + p) * channels + o] =
            popcount(*args, at, block, b, lane, q, p);
      }
    }
  });
}
