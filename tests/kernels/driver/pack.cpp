#include "abcfx/pack.h"

#include "check.h"

namespace {

/// Of each dtype: NaN (quiet, signalling), infinity, zero, the smallest and the largest number; the sign is drawn.
constexpr uint32_t SPECIAL[3][6] = {{0x7fc00000, 0x7f800001, 0x7f800000, 0, 1, 0x7f7fffff},
                                    {0x7fc0, 0x7f81, 0x7f80, 0, 1, 0x7f7f},
                                    {0x7e00, 0x7c01, 0x7c00, 0, 1, 0x7bff}};

/// A multiple of 1/8, of which every second is a tie of the coded levels.
float eighths(Random& random) { return (float)random.between(-24, 24) / 8; }

/// The bits of a multiple of 1/8, which all dtypes hold exactly, or now and then of a special value.
uint32_t bits_of(Random& random, int64_t dtype) {
  const uint32_t sign = random.between(0, 1);
  if (!random.between(0, 15)) return SPECIAL[dtype][random.between(0, 5)] | sign << (dtype == ABCFX_F32 ? 31 : 15);
  const float value = eighths(random);
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  if (dtype == ABCFX_F32) return bits;
  if (dtype == ABCFX_BF16) return bits >> 16;
  return value == 0 ? 0 : bits >> 31 << 15 | ((bits & 0x7fffffff) - (112u << 23)) >> 13;
}

void fill_image(Random& random, int64_t dtype, Buffer<uint8_t>& src) {
  const int64_t size = dtype == ABCFX_F32 ? 4 : 2;
  for (int64_t at = 0; at < src.count; at += size) {
    const uint32_t bits = bits_of(random, dtype);
    const uint16_t half = (uint16_t)bits;
    memcpy(src.data() + at, size == 4 ? (const void*)&bits : &half, (size_t)size);
  }
}

/// Gains of both signs, and offsets that bring one of the values to a tie or threshold in two roundings: with one, by a
/// fused multiply-add, it would lie beside it.
void fill_affine(Random& random, Buffer<float>& gain, Buffer<float>& offset) {
  for (int64_t c = 0; c < gain.count; ++c) {
    gain[c] = (float)random.between(-(1 << 24), 1 << 24) / (1 << 23);
    const float product = eighths(random) * gain[c];
    offset[c] = eighths(random) - product;
  }
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
  args.channels = args.groups * size_near(random, 8, 200);
  args.images = random.between(1, 2);
  args.height = random.between(1, 4);
  args.width = size_near(random, 4, 40);
  args.levels = random.between(0, 1) ? ABCFX_CODED : ABCFX_THERMOMETER;
  args.planes = random.between(1, 8);
  args.dtype = random.between(ABCFX_F32, ABCFX_F16);
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
  const int64_t entries = args.levels == ABCFX_CODED ? 1 : args.planes, size_of_value = args.dtype == ABCFX_F32 ? 4 : 2;
  Buffer<uint8_t> src(lay_out(random, args) * size_of_value);
  Buffer<float> scale(entries), shift(entries), gain(args.channels), offset(args.channels);
  fill_image(random, args.dtype, src);
  fill_affine(random, gain, offset);
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
  if (random.between(0, 1)) args.gain = gain.data(), args.offset = offset.data();
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
