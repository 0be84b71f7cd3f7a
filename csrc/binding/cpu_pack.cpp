#include "abcfx/pack.h"
#include "levels.h"
#include "ops.h"
#include "parallel.h"

namespace abcfx {
namespace {

void run(const char* op, abcfx_pack_args& args, const Tensor& input, int64_t dtype, const ChannelAffine& affine,
         double low, double high) {
  args.src = input.const_data_ptr();
  args.dtype = dtype;
  args.gain = affine.gain_data();
  args.offset = affine.offset_data();
  args.low = (float)low;
  args.high = (float)high;
  const int64_t bytes = args.images * args.height * args.width * args.channels * (dtype == ABCFX_F32 ? 4 : 2);
  // kernels take 32 pixels at a time where pixels are contiguous and channels are not
  const int64_t unit = args.stride_w == 1 && args.stride_c != 1 ? 32 : 1;
  const int status =
      run_lines(args, args.images * (args.height + args.top + args.bottom), bytes, abcfx_pack_choose(), unit);
  STD_TORCH_CHECK(status == ABCFX_OK, "abc_k::", op, ": the kernel refused its arguments, status ", status);
}

}  // namespace

Tensor pack_rows(const Tensor& input, const Tensor& scale, const Tensor& shift, int64_t planes, StringHandle text,
                 const std::optional<Tensor>& gain, const std::optional<Tensor>& offset, double low, double high) {
  const Levels levels("pack_rows", scale, shift, planes, text);
  const int64_t dtype = expect_strided("pack_rows", input, 2);
  const ChannelAffine affine(OnCpu(), "pack_rows", gain, offset, input.size(1));
  abcfx_pack_args args;
  Tensor dst = pack_rows_into(args, input, levels, input.size(0), input.size(1));
  args.stride_c = input.stride(1);
  args.stride_w = input.stride(0);
  run("pack_rows", args, input, dtype, affine, low, high);
  return dst;
}

Tensor pack_image(const Tensor& input, const Tensor& scale, const Tensor& shift, int64_t planes, StringHandle text,
                  int64_t groups, std::vector<int64_t> padding, const std::optional<Tensor>& gain,
                  const std::optional<Tensor>& offset, double low, double high) {
  const Levels levels("pack_image", scale, shift, planes, text);
  const int64_t dtype = expect_strided("pack_image", input, 4);
  const ChannelAffine affine(OnCpu(), "pack_image", gain, offset, input.size(1));
  abcfx_pack_args args;
  Tensor dst = pack_image_into(args, "pack_image", input, levels, input.size(0), input.size(1), input.size(2),
                               input.size(3), groups, padding);
  args.stride_n = input.stride(0);
  args.stride_c = input.stride(1);
  args.stride_h = input.stride(2);
  args.stride_w = input.stride(3);
  run("pack_image", args, input, dtype, affine, low, high);
  return dst;
}

}  // namespace abcfx
