#include "levels.h"
#include "ops.h"
#include "parallel.h"
#include "unpacking.h"

namespace abcfx {
namespace {

Tensor run(const char* op, Unpacking unpacking, const Tensor& scale, const Tensor& shift, StringHandle text) {
  const Levels levels(op, scale, shift, unpacking.args.planes, text);
  unpacking.complete(levels);
  const abcfx_unpack_args& args = unpacking.args;
  const int status = run_lines(args, args.line_end, unpacking.dst.numel() * 4, abcfx_unpack_choose());
  STD_TORCH_CHECK(status == ABCFX_OK, "abc_k::", op, ": the kernel refused its arguments, status ", status);
  return unpacking.values();
}

}  // namespace

Tensor unpack_rows(const Tensor& bits, const Tensor& scale, const Tensor& shift, StringHandle text, int64_t depth) {
  return run("unpack_rows", Unpacking::rows(OnCpu(), bits, depth), scale, shift, text);
}

Tensor unpack_image(const Tensor& bits, const Tensor& scale, const Tensor& shift, StringHandle text, int64_t channels,
                    int64_t groups, std::vector<int64_t> padding) {
  return run("unpack_image", Unpacking::image(OnCpu(), bits, channels, groups, padding), scale, shift, text);
}

}  // namespace abcfx
