#include "abcfx/bitweights.h"
#include "abcfx/padding.h"
#include "check.h"

namespace {

/// Bit `bit` of word `at` as the contract of bitweights.h has it.
bool contract(const abcfx_bitweights_args& args, int64_t at, int64_t bit) {
  const int64_t words = ceil_div(args.channels, 64), of_group = ceil_div(args.cols, ABCFX_LANES);
  const int64_t lane = at % ABCFX_LANES, word = at / ABCFX_LANES % words, tap = at / ABCFX_LANES / words % args.taps;
  const int64_t rest = at / ABCFX_LANES / words / args.taps, plane = rest % args.bases, block = rest / args.bases;
  const int64_t col = block % of_group * ABCFX_LANES + lane, channel = 64 * word + bit;
  if (col >= args.cols || channel >= args.channels) return false;
  const int64_t output = (plane * args.groups + block / of_group) * args.cols + col;
  return args.src[(output * args.taps + tap) * args.channels + channel] < 0;
}

/// Size of the image, kernel and so on along one axis.
struct Axis {
  int64_t kernel, size, stride, dilation, before, out;

  explicit Axis(Random& random) {
    kernel = random.between(1, 13);
    size = random.between(1, 9);
    stride = random.between(1, 3);
    dilation = random.between(1, 3);
    const int64_t reach = (kernel - 1) * dilation + 1;
    before = random.between(reach > size ? ceil_div(reach - size, 2) : 0, reach + 2);
    out = (size + 2 * before - reach) / stride + 1;
  }

  bool inside(int64_t position, int64_t tap) const {
    const int64_t at = position * stride + tap * dilation - before;
    return at >= 0 && at < size;
  }
};

/// The classes of an axis, in tables of exactly the promised size.
struct Classes {
  int64_t count;
  Buffer<int32_t> class_of, first, last;

  explicit Classes(const Axis& axis) : class_of(axis.out), first(axis.out), last(axis.out) {
    count = abcfx_padding_classes(axis.out, axis.size, axis.kernel, axis.stride, axis.dilation, axis.before,
                                  class_of.data(), first.data(), last.data());
    REQUIRE(class_of.wall_intact() && first.wall_intact() && last.wall_intact(), "written in front of a table");
  }
};

}  // namespace

void check_bitweights(Random random) {
  abcfx_bitweights_args args = {};
  args.bases = random.between(1, 8);
  args.groups = random.between(1, 3);
  args.cols = size_near(random, 8, 40);
  args.taps = random.between(1, 9);
  args.channels = size_near(random, 64, 200);
  const int64_t blocks = args.groups * ceil_div(args.cols, ABCFX_LANES);
  const int64_t block_size = args.bases * args.taps * ceil_div(args.channels, 64) * ABCFX_LANES;
  Buffer<int8_t> src(args.bases * args.groups * args.cols * args.taps * args.channels);
  Buffer<uint64_t> dst(blocks * block_size);
  for (int64_t i = 0; i < src.count; ++i) src[i] = random.between(0, 1) ? 1 : -1;
  args.src = src.data();
  args.dst = dst.data();
  range_of(random, blocks, &args.block_begin, &args.block_end);
  REQUIRE(abcfx_bitweights_pack(&args) == ABCFX_OK, "the problem was refused");
  REQUIRE(dst.wall_intact(), "something was written in front of the output");
  for (int64_t at = 0; at < dst.count; ++at) {
    if (at / block_size < args.block_begin || at / block_size >= args.block_end) {
      REQUIRE(dst.untouched(at), "word %" PRId64 " is outside of the range", at);
      continue;
    }
    for (int64_t bit = 0; bit < 64; ++bit) {
      REQUIRE((dst[at] >> bit & 1) == contract(args, at, bit), "word %" PRId64 ", bit %" PRId64, at, bit);
    }
  }
}

/// Integers again, so that every order of the sums gives the same.
void check_padding(Random random) {
  const Axis h(random), w(random);
  Classes of_h(h), of_w(w);
  const int64_t cols = size_near(random, 32, 70), taps = h.kernel * w.kernel;
  Buffer<float> sums(cols * taps), bias(cols), base(of_h.count * of_w.count * cols);
  fill_integers(random, sums, -5, 5);
  fill_integers(random, bias, -9, 9);
  const float constant = (float)random.between(-3, 3), beta_sum = (float)random.between(1, 6);
  abcfx_padding_args args = {sums.data(),       random.between(0, 1) ? bias.data() : NULL,
                             base.data(),       cols,
                             h.kernel,          w.kernel,
                             of_h.count,        of_w.count,
                             of_h.first.data(), of_h.last.data(),
                             of_w.first.data(), of_w.last.data(),
                             constant,          beta_sum};
  REQUIRE(abcfx_padding_base(&args) == ABCFX_OK, "the problem was refused");
  REQUIRE(base.wall_intact(), "something was written in front of the output");
  for (int64_t at = 0; at < h.out * w.out * cols; ++at) {
    const int64_t o = at % cols, x = at / cols % w.out, y = at / cols / w.out;
    float wanted = args.bias ? bias[o] : 0.0f;
    for (int64_t t = 0; t < taps; ++t) {
      const bool inside = h.inside(y, t / w.kernel) && w.inside(x, t % w.kernel);
      wanted += (inside ? constant : -beta_sum) * sums[o * taps + t];
    }
    const float got = base[(of_h.class_of[y] * of_w.count + of_w.class_of[x]) * cols + o];
    REQUIRE(got == wanted, "position %" PRId64 " %" PRId64 ", output %" PRId64 ": %g, wanted %g", y, x, o, got, wanted);
  }
}
