#include "ops.h"
#include "parallel.h"
#include "pooling.h"

namespace abcfx {

Tensor max_pool_bits(const Tensor& bits, StringHandle text, std::vector<int64_t> kernel, std::vector<int64_t> stride,
                     std::vector<int64_t> padding, std::vector<int64_t> before, std::vector<int64_t> after) {
  const Pooling pooling(OnCpu(), bits, text, kernel, stride, padding, before, after);
  const abcfx_pool_args& args = pooling.args;
  const int status = run_ranges(args.images * args.out_h, bits.numel() * 8, [&](int64_t begin, int64_t end) {
    abcfx_pool_args part = args;
    part.line_begin = begin;
    part.line_end = end;
    return abcfx_pool(&part);
  });
  STD_TORCH_CHECK(status == ABCFX_OK, "abc_k::max_pool_bits: the kernel refused its arguments, status ", status);
  return pooling.dst;
}

}  // namespace abcfx
