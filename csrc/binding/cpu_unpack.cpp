#include "abcfx/unpack.h"

#include "levels.h"
#include "ops.h"
#include "parallel.h"

namespace abcfx {
namespace {

void run(const char* op, abcfx_unpack_args& args, const Tensor& bits, const Levels& levels, Tensor& dst) {
  args.src = reinterpret_cast<const uint64_t*>(bits.const_data_ptr<int64_t>());
  args.dst = dst.mutable_data_ptr<float>();
  args.scale = levels.scale.const_data_ptr<float>();
  args.shift = levels.shift.const_data_ptr<float>();
  args.levels = levels.kind;
  args.planes = levels.planes;
  args.line_end = args.images * args.height;
  args.pixel_end = args.width;
  const int status = run_lines(args, args.line_end, dst.numel() * 4, abcfx_unpack_choose());
  STD_TORCH_CHECK(status == ABCFX_OK, "abc_k::", op, ": the kernel refused its arguments, status ", status);
}

}  // namespace

Tensor unpack_rows(const Tensor& bits_argument, const Tensor& scale, const Tensor& shift, StringHandle text,
                   int64_t depth) {
  expect_range("unpack_rows", "depth", depth, 0, INT64_MAX - 63);
  const Tensor bits =
      expect("unpack_rows", "bits", bits_argument, ScalarType::Long, {-1, -1, ceil_div(depth, 64)});
  const Levels levels("unpack_rows", scale, shift, bits.size(0), text);
  Tensor dst = torch::stable::new_empty(bits, {bits.size(1), depth}, ScalarType::Float);
  abcfx_unpack_args args = {};
  args.images = args.height = args.groups = 1;
  args.channels = depth;
  args.width = bits.size(1);
  run("unpack_rows", args, bits, levels, dst);
  return dst;
}

Tensor unpack_image(const Tensor& bits_argument, const Tensor& scale, const Tensor& shift, StringHandle text,
                    int64_t channels, int64_t groups, std::vector<int64_t> padding) {
  expect_range("unpack_image", "channels", channels, 0, INT64_MAX - 63);
  expect_range("unpack_image", "groups", groups, 1, INT64_MAX);
  expect_pair("unpack_image", "padding", padding, 0);
  const Tensor bits = expect("unpack_image", "bits", bits_argument, ScalarType::Long,
                             {-1, -1, -1, -1, groups * ceil_div(channels, 64)});
  const Levels levels("unpack_image", scale, shift, bits.size(2), text);
  const int64_t height = bits.size(1) - 2 * padding[0], width = bits.size(3) - 2 * padding[1];
  STD_TORCH_CHECK(height >= 0 && width >= 0, "abc_k::unpack_image: bits of ", bits.size(1), " x ", bits.size(3),
                  " pixels cannot have a padding of ", padding[0], " and ", padding[1], " on each side");
  Tensor dst = torch::stable::new_empty(bits, {bits.size(0), height, width, groups * channels}, ScalarType::Float);
  abcfx_unpack_args args = {};
  args.images = bits.size(0);
  args.channels = channels;
  args.height = height;
  args.width = width;
  args.top = args.bottom = padding[0];
  args.left = args.right = padding[1];
  args.groups = groups;
  run("unpack_image", args, bits, levels, dst);
  return torch::stable::transpose(torch::stable::transpose(dst, 2, 3), 1, 2);
}

}  // namespace abcfx
