#pragma once
#include "abcfx/pool.h"
#include "check.h"

// max_pool_bits up to the kernel, as in gradient.h.
namespace abcfx {

struct Pooling {
  Tensor bits, dst;
  abcfx_pool_args args = {};

  template <class Where>
  Pooling(const Where& where, const Tensor& bits_argument, StringHandle text, const std::vector<int64_t>& kernel,
          const std::vector<int64_t>& stride, const std::vector<int64_t>& padding, const std::vector<int64_t>& before,
          const std::vector<int64_t>& after)
      : bits(bits_argument), dst(bits_argument) {
    const char* op = "max_pool_bits";
    args.levels = expect_levels(op, text);
    bits = where.expect(op, "bits", bits_argument, ScalarType::Long, {-1, -1, -1, -1, -1});
    expect_pair(op, "kernel", kernel, 1);
    expect_pair(op, "stride", stride, 1);
    expect_pair(op, "padding", padding, 0);
    expect_pair(op, "before", before, 0);
    expect_pair(op, "after", after, 0);
    expect_range(op, "the number of planes", bits.size(2), 1, ABCFX_MAX_BASES);
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
    STD_TORCH_CHECK(args.height + 2 * padding[0] >= kernel[0] && args.width + 2 * padding[1] >= kernel[1], "abc_k::",
                    op, ": an image of ", args.height, " x ", args.width, " pixels is smaller than the window");
    args.out_h = (args.height + 2 * padding[0] - kernel[0]) / stride[0] + 1;
    args.out_w = (args.width + 2 * padding[1] - kernel[1]) / stride[1] + 1;
    args.out_pad_h = after[0];
    args.out_pad_w = after[1];
    dst = new_tensor(
        bits, {args.images, args.out_h + 2 * after[0], args.planes, args.out_w + 2 * after[1], args.words},
        ScalarType::Long);
    args.src = reinterpret_cast<const uint64_t*>(bits.const_data_ptr<int64_t>());
    args.dst = reinterpret_cast<uint64_t*>(dst.mutable_data_ptr<int64_t>());
  }
};

}  // namespace abcfx
