#include "cuda_ops.h"
#include "pooling.h"
#include "unpacking.h"

namespace abcfx::cuda {
namespace {

Tensor run(const char* op, Unpacking unpacking, const Tensor& scale, const Tensor& shift, StringHandle text) {
  const Levels levels(op, scale, shift, unpacking.bits, unpacking.args.planes, text);
  unpacking.complete(levels);
  const Scope scope(unpacking.bits);
  check(op, abcfx_cuda_unpack(&unpacking.args, scope.stream));
  return unpacking.values();
}

}  // namespace

Tensor unpack_rows(const Tensor& bits, const Tensor& scale, const Tensor& shift, StringHandle text, int64_t depth) {
  return run("unpack_rows", Unpacking::rows(OnDeviceOf{bits}, bits, depth), scale, shift, text);
}

Tensor unpack_image(const Tensor& bits, const Tensor& scale, const Tensor& shift, StringHandle text, int64_t channels,
                    int64_t groups, std::vector<int64_t> padding) {
  return run("unpack_image", Unpacking::image(OnDeviceOf{bits}, bits, channels, groups, padding), scale, shift, text);
}

Tensor max_pool_bits(const Tensor& bits, StringHandle text, std::vector<int64_t> kernel, std::vector<int64_t> stride,
                     std::vector<int64_t> padding, std::vector<int64_t> before, std::vector<int64_t> after) {
  const Pooling pooling(OnDeviceOf{bits}, bits, text, kernel, stride, padding, before, after);
  const Scope scope(pooling.bits);
  check("max_pool_bits", abcfx_cuda_pool(&pooling.args, scope.stream));
  return pooling.dst;
}

}  // namespace abcfx::cuda
