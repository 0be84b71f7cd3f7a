#include "abcfx/pack.h"

#include <math.h>

#include "check.h"

namespace {

/// Multiples of 1/8, half of them ties of the coded levels, and now and then a value that is no number or very large.
float value_of(Random& random) {
  static const float special[] = {NAN, -NAN, INFINITY, -INFINITY, -0.0f, 0.0f, 1e-45f, -1e-45f, 3.4e38f, -3.4e38f};
  return random.between(0, 15) ? (float)random.between(-24, 24) / 8 : special[random.between(0, 9)];
}

/// Strides of one of four layouts, dense or every other value of one; returns how many values the image spans.
int64_t lay_out(Random& random, abcfx_pack_args& args) {
  int64_t* stride[4] = {&args.stride_n, &args.stride_c, &args.stride_h, &args.stride_w};
  const int64_t size[4] = {args.images, args.channels, args.height, args.width};
  static const int orders[4][4] = {{3, 2, 1, 0}, {1, 3, 2, 0}, {0, 2, 1, 3}, {2, 3, 1, 0}};  // innermost first
  const int* order = orders[random.between(0, 3)];
  int64_t step = random.between(0, 3) ? 1 : 2, span = 1;
  for (int i = 0; i < 4; ++i) {
    *stride[order[i]] = step;
    span += (size[order[i]] - 1) * step;
    step *= size[order[i]];
  }
  return span;
}

abcfx_pack_args shape_of(Random& random) {
  abcfx_pack_args args = {};
  args.groups = random.between(0, 2) ? 1 : random.between(2, 4);
  args.channels = args.groups * size_near(random, 16, 150);
  args.images = random.between(1, 2);
  args.height = random.between(1, 4);
  args.width = size_near(random, 4, 40);
  args.levels = random.between(0, 1) ? ABCFX_CODED : ABCFX_THERMOMETER;
  args.planes = random.between(1, 8);
  args.top = random.between(0, 2);
  args.bottom = random.between(0, 2);
  args.left = random.between(0, 3);
  args.right = random.between(0, 3);
  range_of(random, args.images * (args.top + args.height + args.bottom), &args.line_begin, &args.line_end);
  range_of(random, args.width, &args.pixel_begin, &args.pixel_end);
  return args;
}

}  // namespace

void check_pack(Random random) {
  abcfx_pack_args args = shape_of(random);
  const int64_t entries = args.levels == ABCFX_CODED ? 1 : args.planes;
  Buffer<float> src(lay_out(random, args)), scale(entries), shift(entries);
  for (int64_t i = 0; i < src.count; ++i) src[i] = value_of(random);
  for (int64_t q = 0; q < entries; ++q) {
    scale[q] = 0.25f;
    shift[q] = (float)random.between(-4, 4) / 4;
  }
  const int64_t pixel = args.groups * ceil_div(args.channels / args.groups, 64);
  const int64_t lines = args.images * (args.top + args.height + args.bottom);
  const int64_t size = lines * args.planes * (args.left + args.width + args.right) * pixel;
  Buffer<uint64_t> dst(size), wanted(size);
  args.src = src.data();
  args.scale = scale.data();
  args.shift = shift.data();
  args.dst = wanted.data();
  current.variant = "reference";
  REQUIRE(abcfx_pack_find("reference")(&args) == ABCFX_OK, "the problem was refused");
  args.dst = dst.data();
  for (int i = 0; (current.variant = abcfx_pack_variant(i)); ++i) {
    const abcfx_pack_fn kernel = abcfx_pack_find(current.variant);
    if (!kernel) continue;
    dst.clear();
    REQUIRE(kernel(&args) == ABCFX_OK, "the problem was refused");
    REQUIRE(dst.wall_intact(), "something was written in front of the output");
    for (int64_t at = 0; at < size; ++at) {  // words outside of the range hold the same pattern in both
      REQUIRE(dst[at] == wanted[at], "word %" PRId64 ": %016" PRIx64 ", wanted %016" PRIx64, at, dst[at], wanted[at]);
    }
  }
}
