#include "abcfx/lut.h"

#include "abcfx/bitweights.h"
#include "product.h"

namespace {

/// A problem with the weights as signs, and tail bits of zero. Betas of which some or all double make digits of one or
/// several planes; they stay integers, and alphas of at most 1 keep every sum exact.
struct Lookup : Product {
  Buffer<int8_t> signs;

  explicit Lookup(Random& random)
      : Product(random), signs(args.weight_bases * outputs * args.kernel_h * args.kernel_w * channels) {
    for (int64_t i = 0; i < signs.count; ++i) signs[i] = !full && random.between(0, 1) ? 1 : -1;  // full: T = 4 L
    for (int64_t i = args.words - 1; channels % 64 && i < a.count; i += args.words) {
      a[i] &= ((uint64_t)1 << channels % 64) - 1;
    }
    fill_integers(random, alpha, -1, 1);
    const bool coded = random.between(0, 1);
    for (int64_t q = 1; q < beta.count; ++q) {
      if (coded || random.between(0, 1)) beta[q] = 2 * beta[q - 1];
    }
  }

  /// The product by the reference of bgemm, from weights in its own layout.
  void expect(Buffer<float>& wanted) {
    const int64_t taps = args.kernel_h * args.kernel_w, count = blocks(ABCFX_LANES);
    Buffer<uint64_t> w(count * args.weight_bases * taps * args.words * ABCFX_LANES);
    const abcfx_bitweights_args packing = {signs.data(), w.data(), args.weight_bases, args.groups, args.cols,
                                           taps,         channels, 0,                 count};
    REQUIRE(abcfx_bitweights_pack(&packing) == ABCFX_OK, "the weights were refused");
    args.w = w.data();
    args.dst = wanted.data();
    REQUIRE(abcfx_bgemm_find("reference")(&args) == ABCFX_OK, "the problem was refused");
    args.w = NULL;
  }

  void check(Random& random, abcfx_lut_fn kernel, Buffer<float>& dst, Buffer<float>& wanted) {
    const int64_t lanes = abcfx_lut_lanes(current.variant), taps = args.kernel_h * args.kernel_w;
    Buffer<uint8_t> w(blocks(lanes) * abcfx_lut_vectors(args.weight_bases, args.cols, lanes) * taps *
                      ceil_div(channels, 8) * lanes);
    const abcfx_lut_pack_args packing = {signs.data(), w.data(), args.weight_bases, args.groups, args.cols,
                                         taps,         channels, lanes,             0,           blocks(lanes),
                                         outputs * taps * channels, taps * channels, channels, 1};
    REQUIRE(abcfx_lut_pack(&packing) == ABCFX_OK, "the weights were refused");
    REQUIRE(w.wall_intact(), "something was written in front of the weights");
    choose_range(random, lanes);
    args.dst = dst.data();
    abcfx_lut_args lookup = {args, w.data(), channels, NULL};
    // whole steps of 64 bytes, for the alignment of both ends; at most 63 bytes past the promised size go unseen
    Buffer<Line> scratch(ceil_div(abcfx_lut_scratch_bytes(&lookup), sizeof(Line)));
    lookup.scratch = scratch.data();
    dst.clear();
    REQUIRE(kernel(&lookup) == ABCFX_OK, "the problem was refused");
    REQUIRE(scratch.wall_intact(), "something was written in front of the scratch");
    compare(dst, wanted, lanes);
  }

  struct alignas(64) Line {
    uint8_t bytes[64];
  };
};

}  // namespace

void check_lut(Random random) {
  Lookup lookup(random);
  Buffer<float> dst(lookup.rows * lookup.outputs), wanted(lookup.rows * lookup.outputs);
  current.variant = "bgemm reference";
  lookup.expect(wanted);
  for (int i = 0; (current.variant = abcfx_lut_variant(i)); ++i) {
    if (const abcfx_lut_fn kernel = abcfx_lut_find(current.variant)) lookup.check(random, kernel, dst, wanted);
  }
}
