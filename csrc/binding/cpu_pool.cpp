#include "abcfx/pool.h"

#include "levels.h"
#include "ops.h"
#include "parallel.h"

namespace abcfx {

Tensor max_pool_bits(const Tensor& bits_argument, StringHandle text, std::vector<int64_t> kernel,
                     std::vector<int64_t> stride, std::vector<int64_t> padding, std::vector<int64_t> before,
                     std::vector<int64_t> after) {
  const char* op = "max_pool_bits";
  const Text owner(text);
  const std::string levels = owner.str();
  STD_TORCH_CHECK(levels == "coded" || levels == "thermometer", "abc_k::", op,
                  ": levels must be 'coded' or 'thermometer', got '", levels, "'");
  const Tensor bits = expect(op, "bits", bits_argument, ScalarType::Long, {-1, -1, -1, -1, -1});
  expect_pair(op, "kernel", kernel, 1);
  expect_pair(op, "stride", stride, 1);
  expect_pair(op, "padding", padding, 0);
  expect_pair(op, "before", before, 0);
  expect_pair(op, "after", after, 0);
  expect_range(op, "the number of planes", bits.size(2), 1, ABCFX_MAX_BASES);
  abcfx_pool_args args = {};
  args.levels = levels == "coded" ? ABCFX_CODED : ABCFX_THERMOMETER;
  args.planes = bits.size(2);
  args.images = bits.size(0);
  args.height = bits.size(1) - 2 * before[0];
  args.width = bits.size(3) - 2 * before[1];
  args.words = bits.size(4);
  args.pad_h = before[0];
  args.pad_w = before[1];
  args.kernel_h = kernel[0];
  args.kernel_w = kernel[1];
  args.stride_h = stride[0];
  args.stride_w = stride[1];
  args.top = padding[0];
  args.left = padding[1];
  STD_TORCH_CHECK(2 * padding[0] <= kernel[0] && 2 * padding[1] <= kernel[1], "abc_k::", op,
                  ": padding must be at most half of the kernel");
  STD_TORCH_CHECK(args.height + 2 * padding[0] >= kernel[0] && args.width + 2 * padding[1] >= kernel[1], "abc_k::", op,
                  ": an image of ", args.height, " x ", args.width, " pixels is smaller than the window");
  args.out_h = (args.height + 2 * padding[0] - kernel[0]) / stride[0] + 1;
  args.out_w = (args.width + 2 * padding[1] - kernel[1]) / stride[1] + 1;
  args.out_pad_h = after[0];
  args.out_pad_w = after[1];
  Tensor dst = torch::stable::new_empty(
      bits, {args.images, args.out_h + 2 * after[0], args.planes, args.out_w + 2 * after[1], args.words},
      ScalarType::Long);
  args.src = reinterpret_cast<const uint64_t*>(bits.const_data_ptr<int64_t>());
  args.dst = reinterpret_cast<uint64_t*>(dst.mutable_data_ptr<int64_t>());
  const int status = run_ranges(args.images * args.out_h, bits.numel() * 8, [&](int64_t begin, int64_t end) {
    abcfx_pool_args part = args;
    part.line_begin = begin;
    part.line_end = end;
    return abcfx_pool(&part);
  });
  STD_TORCH_CHECK(status == ABCFX_OK, "abc_k::", op, ": the kernel refused its arguments, status ", status);
  return dst;
}

}  // namespace abcfx
