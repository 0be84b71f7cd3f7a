#include "cuda_ops.h"
#include "windows.h"

namespace abcfx::cuda {

Tensor window_bits(const Tensor& input, const Tensor& scale, const Tensor& shift, int64_t planes, StringHandle text,
                   const std::optional<Tensor>& edges) {
  const char* op = "window_bits";
  const Levels levels(op, scale, shift, input, planes, text);
  const Windows windows(OnDeviceOf{input}, levels, input, edges);
  const Scope scope(input);
  check(op, abcfx_cuda_window(&windows.args, scope.stream));
  return windows.dst;
}

std::tuple<Tensor, Tensor, Tensor> window_adjoint(const Tensor& grad, const Tensor& windows, const Tensor& scale,
                                                  int64_t planes, StringHandle text,
                                                  const std::optional<Tensor>& sample_scale) {
  const char* op = "window_adjoint";
  const Levels levels(op, scale, scale, grad, planes, text);  // the shift, of the same shape, is not needed
  Adjoint adjoint(OnDeviceOf{grad}, levels, grad, windows, sample_scale);
  const Scope scope(grad);
  check(op, abcfx_cuda_adjoint(&adjoint.args, scope.stream));
  check(op, abcfx_cuda_adjoint_finish(&adjoint.args, adjoint.dscale.mutable_data_ptr<float>(),
                                      adjoint.dshift.mutable_data_ptr<float>(), scope.stream));
  return {adjoint.dx, adjoint.dscale, adjoint.dshift};
}

}  // namespace abcfx::cuda
