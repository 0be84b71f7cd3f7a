#include "cuda_ops.h"

namespace abcfx::cuda {
namespace {

/// Fills in what rows and images have in common, and enqueues.
void run(const char* op, abcfx_pack_args& args, const Tensor& input, const Levels& levels, const ChannelAffine& affine,
         double low, double high, Tensor& dst) {
  args.src = input.const_data_ptr();
  args.dst = reinterpret_cast<uint64_t*>(dst.mutable_data_ptr<int64_t>());
  args.scale = levels.scale.const_data_ptr<float>();
  args.shift = levels.shift.const_data_ptr<float>();
  args.gain = affine.gain_data();
  args.offset = affine.offset_data();
  args.low = (float)low;
  args.high = (float)high;
  args.dtype = expect_float_type(op, input);
  args.levels = levels.kind;
  args.planes = levels.planes;
  const Scope scope(input);
  check(op, abcfx_cuda_pack(&args, nullptr, scope.stream));
}

}  // namespace

Tensor pack_rows(const Tensor& input, const Tensor& scale, const Tensor& shift, int64_t planes, StringHandle text,
                 const std::optional<Tensor>& gain, const std::optional<Tensor>& offset, double low, double high) {
  const char* op = "pack_rows";
  const Levels levels(op, scale, shift, input, planes, text);
  expect_dims(op, input, 2);
  const int64_t rows = input.size(0), depth = input.size(1);
  const ChannelAffine affine(OnDeviceOf{input}, op, gain, offset, depth);
  Tensor dst = torch::stable::new_empty(input, {planes, rows, words_of(depth)}, ScalarType::Long);
  abcfx_pack_args args = {};
  args.images = args.height = args.groups = 1;
  args.channels = depth;
  args.width = rows;
  args.stride_c = input.stride(1);
  args.stride_w = input.stride(0);
  run(op, args, input, levels, affine, low, high, dst);
  return dst;
}

Tensor pack_image(const Tensor& input, const Tensor& scale, const Tensor& shift, int64_t planes, StringHandle text,
                  int64_t groups, std::vector<int64_t> padding, const std::optional<Tensor>& gain,
                  const std::optional<Tensor>& offset, double low, double high) {
  const char* op = "pack_image";
  const Levels levels(op, scale, shift, input, planes, text);
  expect_dims(op, input, 4);
  const int64_t images = input.size(0), channels = input.size(1), height = input.size(2), width = input.size(3);
  const ChannelAffine affine(OnDeviceOf{input}, op, gain, offset, channels);
  Tensor dst = new_bit_image(op, input, planes, images, channels, height, width, groups, padding);
  abcfx_pack_args args = {};
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
  run(op, args, input, levels, affine, low, high, dst);
  return dst;
}

Tensor pack_weights(const Tensor& bases, int64_t groups, int64_t lanes) {
  const char* op = "pack_weights";
  const Tensor src = expect(op, "bases", bases, bases, ScalarType::Char, {-1, -1, -1, -1});
  const int64_t planes = src.size(0), outputs = src.size(1), taps = src.size(2), channels = src.size(3);
  expect_range(op, "the number of bases", planes, 1, ABCFX_MAX_BASES);
  STD_TORCH_CHECK(groups >= 1 && outputs % groups == 0, "abc_k::", op, ": ", outputs,
                  " output channels cannot be split into ", groups, " groups");
  expect_device_lanes(op, lanes);
  Tensor dst = torch::stable::new_empty(src, {groups, planes, outputs / groups, taps * words_of(channels)},
                                        ScalarType::Long);
  Tensor counts = torch::stable::new_empty(src, {planes, outputs}, ScalarType::Int);
  abcfx_cuda_weights_args args = {};
  args.src = src.const_data_ptr<int8_t>();
  args.dst = reinterpret_cast<uint64_t*>(dst.mutable_data_ptr<int64_t>());
  args.counts = counts.mutable_data_ptr<int32_t>();
  args.bases = planes;
  args.groups = groups;
  args.cols = outputs / groups;
  args.taps = taps;
  args.channels = channels;
  const Scope scope(src);
  args.stream = scope.stream;
  check(op, abcfx_cuda_pack_weights(&args));
  return dst;
}

}  // namespace abcfx::cuda
