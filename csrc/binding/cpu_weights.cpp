#include "abcfx/bitweights.h"
#include "abcfx/lut.h"
#include "ops.h"
#include "parallel.h"

namespace abcfx {
namespace {

/// pack(args) on parts of its blocks; `bytes` is what one block reads.
template <class Args>
int run_blocks(const Args& args, int64_t total, int64_t bytes, int (*pack)(const Args*)) {
  const int64_t step = std::max<int64_t>(TASK_WORK * 8 / std::max<int64_t>(bytes, 1), 1);
  return run_tasks(ceil_div(total, step), [&](int64_t task) {
    Args part = args;
    part.block_begin = task * step;
    part.block_end = std::min(part.block_begin + step, total);
    return pack(&part);
  });
}

template <class Args>
Args args_of(const Tensor& src, int64_t groups, int64_t cols) {
  Args args = {};
  args.src = src.const_data_ptr<int8_t>();
  args.bases = src.size(0);
  args.groups = groups;
  args.cols = cols;
  args.taps = src.size(2);
  args.channels = src.size(3);
  return args;
}

}  // namespace

Tensor pack_weights(const Tensor& bases, int64_t groups, int64_t lanes) {
  const Tensor src = lanes == ABCFX_LANES || bases.scalar_type() != ScalarType::Char || bases.dim() != 4
                         ? expect("pack_weights", "bases", bases, ScalarType::Char, {-1, -1, -1, -1})
                         : bases;  // the lookup layout is made from any strides
  const int64_t planes = src.size(0), outputs = src.size(1), taps = src.size(2), channels = src.size(3);
  expect_range("pack_weights", "the number of bases", planes, 1, ABCFX_MAX_BASES);
  STD_TORCH_CHECK(groups >= 1 && outputs % groups == 0, "abc_k::pack_weights: ", outputs,
                  " output channels cannot be split into ", groups, " groups");
  STD_TORCH_CHECK(lanes == ABCFX_LANES || lanes == 32 || lanes == 64,
                  "abc_k::pack_weights: lanes must be 8 (xor and popcount), 32 or 64 (table lookup), got ", lanes);
  const int64_t cols = outputs / groups, blocks = ceil_div(cols, lanes), bytes = planes * taps * channels * lanes;
  int status;
  Tensor dst;
  if (lanes == ABCFX_LANES) {
    dst = new_tensor(src, {groups, blocks, planes, taps * ceil_div(channels, 64), lanes},
                                   ScalarType::Long);
    auto args = args_of<abcfx_bitweights_args>(src, groups, cols);
    args.dst = reinterpret_cast<uint64_t*>(dst.mutable_data_ptr<int64_t>());
    status = run_blocks(args, groups * blocks, bytes, abcfx_bitweights_pack);
  } else {
    dst = new_tensor(src, {groups, blocks, abcfx_lut_vectors(planes, cols, lanes), taps, ceil_div(channels, 8), lanes},
                                   ScalarType::Byte);
    auto args = args_of<abcfx_lut_pack_args>(src, groups, cols);
    args.dst = dst.mutable_data_ptr<uint8_t>();
    args.lanes = lanes;
    args.stride_p = src.stride(0);
    args.stride_o = src.stride(1);
    args.stride_t = src.stride(2);
    args.stride_c = src.stride(3);
    status = run_blocks(args, groups * blocks, bytes, abcfx_lut_pack);
  }
  STD_TORCH_CHECK(status == ABCFX_OK, "abc_k::pack_weights: the kernel refused its arguments, status ", status);
  return dst;
}

}  // namespace abcfx
