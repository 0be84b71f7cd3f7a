#include "abcfx/pack.h"
#include "levels.h"
#include "ops.h"
#include "parallel.h"

namespace abcfx {
namespace {

int run(const abcfx_pack_args& args) {
  const int64_t bytes = args.images * args.height * args.width * args.channels * (args.dtype == ABCFX_F32 ? 4 : 2);
  // kernels take 32 pixels at a time where pixels are contiguous and channels are not
  const int64_t unit = args.stride_w == 1 && args.stride_c != 1 ? 32 : 1;
  return run_lines(args, args.images * (args.height + args.top + args.bottom), bytes, abcfx_pack_choose(), unit);
}

/// Everything but the geometry.
abcfx_pack_args operands(const Tensor& input, int64_t dtype, const Levels& levels, const ChannelAffine& affine,
                         Tensor& dst) {
  abcfx_pack_args args = {};
  args.src = input.const_data_ptr();
  args.dst = reinterpret_cast<uint64_t*>(dst.mutable_data_ptr<int64_t>());
  args.scale = levels.scale.const_data_ptr<float>();
  args.shift = levels.shift.const_data_ptr<float>();
  args.gain = affine.gain ? affine.gain->const_data_ptr<float>() : nullptr;
  args.offset = affine.offset ? affine.offset->const_data_ptr<float>() : nullptr;
  args.dtype = dtype;
  args.levels = levels.kind;
  args.planes = levels.planes;
  return args;
}

}  // namespace

Tensor pack_rows(const Tensor& input, const Tensor& scale, const Tensor& shift, int64_t planes, StringHandle text,
                 const std::optional<Tensor>& gain, const std::optional<Tensor>& offset) {
  const Levels levels("pack_rows", scale, shift, planes, text);
  const int64_t dtype = expect_strided("pack_rows", input, 2), rows = input.size(0), depth = input.size(1);
  const ChannelAffine affine("pack_rows", gain, offset, depth);
  Tensor dst = torch::stable::new_empty(input, {planes, rows, ceil_div(depth, 64)}, ScalarType::Long);
  abcfx_pack_args args = operands(input, dtype, levels, affine, dst);
  args.images = args.height = args.groups = 1;
  args.channels = depth;
  args.width = rows;
  args.stride_c = input.stride(1);
  args.stride_w = input.stride(0);
  args.line_end = 1;
  args.pixel_end = rows;
  const int status = run(args);
  STD_TORCH_CHECK(status == ABCFX_OK, "abc_k::pack_rows: the kernel refused its arguments, status ", status);
  return dst;
}

Tensor pack_image(const Tensor& input, const Tensor& scale, const Tensor& shift, int64_t planes, StringHandle text,
                  int64_t groups, std::vector<int64_t> padding, const std::optional<Tensor>& gain,
                  const std::optional<Tensor>& offset) {
  const Levels levels("pack_image", scale, shift, planes, text);
  const int64_t dtype = expect_strided("pack_image", input, 4);
  expect_pair("pack_image", "padding", padding, 0);
  const int64_t images = input.size(0), channels = input.size(1), height = input.size(2), width = input.size(3);
  STD_TORCH_CHECK(groups >= 1 && channels % groups == 0, "abc_k::pack_image: ", channels,
                  " channels cannot be split into ", groups, " groups");
  const ChannelAffine affine("pack_image", gain, offset, channels);
  const int64_t pixel = groups * ceil_div(channels / groups, 64);
  Tensor dst = torch::stable::new_empty(
      input, {images, height + 2 * padding[0], planes, width + 2 * padding[1], pixel}, ScalarType::Long);
  abcfx_pack_args args = operands(input, dtype, levels, affine, dst);
  args.images = images;
  args.channels = channels;
  args.height = height;
  args.width = width;
  args.stride_n = input.stride(0);
  args.stride_c = input.stride(1);
  args.stride_h = input.stride(2);
  args.stride_w = input.stride(3);
  args.top = args.bottom = padding[0];
  args.left = args.right = padding[1];
  args.groups = groups;
  args.line_end = images * (height + 2 * padding[0]);
  args.pixel_end = width;
  const int status = run(args);
  STD_TORCH_CHECK(status == ABCFX_OK, "abc_k::pack_image: the kernel refused its arguments, status ", status);
  return dst;
}

}  // namespace abcfx
