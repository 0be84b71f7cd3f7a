#pragma once
#include "abcfx/bgemm.h"

#include "check.h"

/// What the products by popcount and by table lookup share: a problem of a random size without its weights, and a look
/// at what they wrote. Small integers in alpha, beta and base make every f32 sum exact, so all must agree in every bit.
struct Product {
  abcfx_bgemm_args args;
  int64_t channels, outputs, rows;  ///< channels of one group; outputs of all
  bool full;  ///< all activation bits set: random ones never fill a narrow counter
  Buffer<uint64_t> a;
  Buffer<float> alpha, beta, base;
  Buffer<int32_t> class_h, class_w;

  /// `depth` is that of one tap: the channels.
  static abcfx_bgemm_args shape_of(Random& random) {
    abcfx_bgemm_args args = {};
    args.weight_bases = random.between(1, 8);
    args.activation_bases = random.between(1, 8);
    args.groups = random.between(0, 2) ? 1 : random.between(2, 5);
    args.depth = size_near(random, 64, args.groups == 1 ? 400 : 130);
    args.cols = size_near(random, 8, args.groups == 1 ? 70 : 20);
    args.words = ceil_div(args.depth, 64);
    args.images = random.between(1, 2);
    args.kernel_h = random.between(0, 1) ? 1 : random.between(1, 5);
    args.kernel_w = random.between(0, 1) ? args.kernel_h : random.between(1, 7);
    args.stride_h = random.between(1, 3);
    args.stride_w = random.between(1, 3);
    args.dilation_h = random.between(1, 3);
    args.dilation_w = random.between(1, 2);
    args.out_h = random.between(1, 4);
    args.out_w = random.between(1, 60);
    // the windows need not reach the last lines and pixels
    args.padded_h = (args.out_h - 1) * args.stride_h + (args.kernel_h - 1) * args.dilation_h + random.between(1, 2);
    args.padded_w = (args.out_w - 1) * args.stride_w + (args.kernel_w - 1) * args.dilation_w + random.between(1, 2);
    args.classes_w = 3;
    return args;
  }

  explicit Product(Random& random)
      : args(shape_of(random)),
        channels(args.depth),
        outputs(args.groups * args.cols),
        rows(args.images * args.out_h * args.out_w),
        full(random.between(0, 3) == 0),
        a(args.images * args.padded_h * args.activation_bases * args.padded_w * args.groups * args.words),
        alpha(args.weight_bases * outputs),
        beta(args.activation_bases),
        base(6 * outputs),
        class_h(args.out_h),
        class_w(args.out_w) {
    args.depth *= args.kernel_h * args.kernel_w;
    for (int64_t i = 0; i < a.count; ++i) a[i] = full ? ~(uint64_t)0 : random.next();
    fill_integers(random, alpha, -2, 2);
    fill_integers(random, beta, -3, 3);
    fill_integers(random, base, -9, 9);
    fill_integers(random, class_h, 0, 1);
    fill_integers(random, class_w, 0, 2);
    args.row_end = rows;
    args.block_end = blocks(ABCFX_LANES);
    args.a = a.data();
    args.alpha = alpha.data();
    args.beta = beta.data();
    args.base = base.data();
    args.class_h = class_h.data();
    args.class_w = class_w.data();
  }

  /// Blocks of `lanes` output channels.
  int64_t blocks(int64_t lanes) const { return args.groups * ceil_div(args.cols, lanes); }

  /// Part of the rows and blocks, or all of them.
  void choose_range(Random& random, int64_t lanes) {
    range_of(random, rows, &args.row_begin, &args.row_end);
    range_of(random, blocks(lanes), &args.block_begin, &args.block_end);
  }

  bool asked_for(int64_t row, int64_t output, int64_t lanes) const {
    const int64_t block = output / args.cols * ceil_div(args.cols, lanes) + output % args.cols / lanes;
    return row >= args.row_begin && row < args.row_end && block >= args.block_begin && block < args.block_end;
  }

  void compare(Buffer<float>& dst, Buffer<float>& wanted, int64_t lanes) const {
    REQUIRE(dst.wall_intact(), "something was written in front of the output");
    for (int64_t at = 0; at < dst.count; ++at) {
      const long long row = at / outputs, output = at % outputs;
      if (asked_for(row, output, lanes)) {
        REQUIRE(dst[at] == wanted[at], "row %lld, output %lld: %g, wanted %g", row, output, dst[at], wanted[at]);
      } else {
        REQUIRE(dst.untouched(at), "row %lld, output %lld is outside of the range", row, output);
      }
    }
  }
};
