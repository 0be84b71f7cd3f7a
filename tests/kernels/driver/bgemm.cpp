#include "abcfx/bgemm.h"

#include "product.h"

/// Bits past the last channel may be anything, in both operands: every variant counts the same words.
void check_bgemm(Random random) {
  Product product(random);
  const abcfx_bgemm_args& shape = product.args;
  Buffer<uint64_t> w(product.blocks(ABCFX_LANES) * shape.weight_bases * shape.kernel_h * shape.kernel_w * shape.words *
                     ABCFX_LANES);
  for (int64_t i = 0; i < w.count; ++i) w[i] = product.full ? 0 : random.next();
  product.args.w = w.data();
  product.choose_range(random, ABCFX_LANES);
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
    product.compare(dst, wanted, ABCFX_LANES);
  }
}
