#include "cuda_ops.h"
#include "gradient.h"

namespace abcfx::cuda {

Tensor round_gradient(const Tensor& grad, const Tensor& gain, const Tensor& inverse, const Tensor& seed,
                      int64_t planes) {
  const Rounding rounding(OnDeviceOf{grad}, grad, gain, inverse, seed, planes);
  const Scope scope(grad);
  check("round_gradient", abcfx_cuda_round(&rounding.args, rounding.seed.const_data_ptr<int64_t>(), scope.stream));
  return rounding.codes();
}

std::tuple<Tensor, Tensor> pack_positions(const Tensor& bits, int64_t channels, std::vector<int64_t> kernel,
                                          std::vector<int64_t> stride, std::vector<int64_t> dilation,
                                          std::vector<int64_t> out, int64_t lanes) {
  const char* op = "pack_positions";
  expect_device_lanes(op, lanes);
  Positions positions(OnDeviceOf{bits}, bits, channels, kernel, stride, dilation, out);
  const int64_t planes = positions.args.planes, columns = positions.columns;
  Tensor dst = torch::stable::new_empty(bits, {1, planes, columns, words_of(positions.depth)}, ScalarType::Long);
  Tensor counts = torch::stable::new_empty(bits, {planes, columns}, ScalarType::Int);
  const Scope scope(bits);
  positions.args.dst = dst.mutable_data_ptr();
  positions.args.counts = counts.mutable_data_ptr<int32_t>();
  check(op, abcfx_cuda_positions(&positions.args, scope.stream));
  return {dst, counts};
}

}  // namespace abcfx::cuda
