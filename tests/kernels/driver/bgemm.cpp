#include "abcfx/bgemm.h"

#include "check.h"

namespace {

/// Operands of a random size. Small integers in alpha, beta and base make every f32 sum exact, so the variants must
/// agree in every bit. Bits past the last channel may be anything: every variant counts the same words.
struct Product {
  abcfx_bgemm_args args;
  int64_t outputs, rows, blocks;
  Buffer<uint64_t> a, w;
  Buffer<float> alpha, beta, base;
  Buffer<int32_t> class_h, class_w;

  static abcfx_bgemm_args shape_of(Random& random) {
    abcfx_bgemm_args args = {};
    args.weight_bases = random.between(1, 8);
    args.activation_bases = random.between(1, 8);
    args.groups = random.between(0, 2) ? 1 : random.between(2, 5);
    const int64_t channels = size_near(random, 64, args.groups == 1 ? 400 : 130);
    args.cols = size_near(random, 8, args.groups == 1 ? 70 : 20);
    args.words = ceil_div(channels, 64);
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
    args.depth = args.kernel_h * args.kernel_w * channels;
    args.classes_w = 3;
    return args;
  }

  explicit Product(Random& random)
      : args(shape_of(random)),
        outputs(args.groups * args.cols),
        rows(args.images * args.out_h * args.out_w),
        blocks(args.groups * ceil_div(args.cols, ABCFX_LANES)),
        a(args.images * args.padded_h * args.activation_bases * args.padded_w * args.groups * args.words),
        w(blocks * args.weight_bases * args.kernel_h * args.kernel_w * args.words * ABCFX_LANES),
        alpha(args.weight_bases * outputs),
        beta(args.activation_bases),
        base(6 * outputs),
        class_h(args.out_h),
        class_w(args.out_w) {
    // now and then all bits differ: random ones never fill a narrow counter
    const bool full = random.between(0, 3) == 0;
    for (int64_t i = 0; i < a.count; ++i) a[i] = full ? ~(uint64_t)0 : random.next();
    for (int64_t i = 0; i < w.count; ++i) w[i] = full ? 0 : random.next();
    fill_integers(random, alpha, -2, 2);
    fill_integers(random, beta, -3, 3);
    fill_integers(random, base, -9, 9);
    fill_integers(random, class_h, 0, 1);
    fill_integers(random, class_w, 0, 2);
    range_of(random, rows, &args.row_begin, &args.row_end);
    range_of(random, blocks, &args.block_begin, &args.block_end);
    args.a = a.data();
    args.w = w.data();
    args.alpha = alpha.data();
    args.beta = beta.data();
    args.base = base.data();
    args.class_h = class_h.data();
    args.class_w = class_w.data();
  }

  bool asked_for(int64_t row, int64_t output) const {
    const int64_t of_group = ceil_div(args.cols, ABCFX_LANES);
    const int64_t block = output / args.cols * of_group + output % args.cols / ABCFX_LANES;
    return row >= args.row_begin && row < args.row_end && block >= args.block_begin && block < args.block_end;
  }
};

void compare(const Product& product, Buffer<float>& dst, Buffer<float>& wanted) {
  REQUIRE(dst.wall_intact(), "something was written in front of the output");
  for (int64_t at = 0; at < dst.count; ++at) {
    const long long row = at / product.outputs, output = at % product.outputs;
    if (product.asked_for(row, output)) {
      REQUIRE(dst[at] == wanted[at], "row %lld, output %lld: %g, wanted %g", row, output, dst[at], wanted[at]);
    } else {
      REQUIRE(dst.untouched(at), "row %lld, output %lld is outside of the range", row, output);
    }
  }
}

}  // namespace

void check_bgemm(Random random) {
  Product product(random);
  Buffer<float> dst(product.rows * product.outputs), wanted(product.rows * product.outputs);
  product.args.dst = wanted.data();
  current.variant = "reference";
  REQUIRE(abcfx_bgemm_find("reference")(&product.args) == ABCFX_OK, "the problem was refused");
  product.args.dst = dst.data();
  for (int i = 0; (current.variant = abcfx_bgemm_variant(i)); ++i) {
    const abcfx_bgemm_fn kernel = abcfx_bgemm_find(current.variant);
    if (!kernel) continue;
    dst.clear();
    REQUIRE(kernel(&product.args) == ABCFX_OK, "the problem was refused");
    compare(product, dst, wanted);
  }
}
