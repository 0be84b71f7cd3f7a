#include "levels.h"
#include "ops.h"
#include "parallel.h"
#include "windows.h"

namespace abcfx {

Tensor window_bits(const Tensor& input, const Tensor& scale, const Tensor& shift, int64_t planes, StringHandle text,
                   const std::optional<Tensor>& edges) {
  const Levels levels("window_bits", scale, shift, planes, text);
  const Windows windows(OnCpu(), levels, input, edges);
  const abcfx_window_args& args = windows.args;
  const abcfx_window_fn kernel = abcfx_window_choose();
  const int64_t bytes = args.count * (args.dtype == ABCFX_F32 ? 4 : 2);
  const int status = run_ranges(ceil_div(args.count, ABCFX_WINDOW_BLOCK), bytes, [&](int64_t begin, int64_t end) {
    abcfx_window_args part = args;
    part.block_begin = begin;
    part.block_end = end;
    return kernel(&part);
  });
  STD_TORCH_CHECK(status == ABCFX_OK, "abc_k::window_bits: the kernel refused its arguments, status ", status);
  return windows.dst;
}

std::tuple<Tensor, Tensor, Tensor> window_adjoint(const Tensor& grad, const Tensor& windows, const Tensor& scale,
                                                  int64_t planes, StringHandle text,
                                                  const std::optional<Tensor>& sample_scale) {
  const Levels levels("window_adjoint", scale, scale, planes, text);  // the shift, of the same shape, is not needed
  Adjoint adjoint(OnCpu(), levels, grad, windows, sample_scale);
  const abcfx_adjoint_args& args = adjoint.args;
  const abcfx_adjoint_fn kernel = abcfx_adjoint_choose();
  int status = run_ranges(adjoint.chunks, args.count * 8, [&](int64_t begin, int64_t end) {
    abcfx_adjoint_args part = args;
    part.chunk_begin = begin;
    part.chunk_end = end;
    return kernel(&part);
  });
  if (status == ABCFX_OK) {
    status = abcfx_adjoint_finish(&args, adjoint.dscale.mutable_data_ptr<float>(),
                                  adjoint.dshift.mutable_data_ptr<float>());
  }
  STD_TORCH_CHECK(status == ABCFX_OK, "abc_k::window_adjoint: the kernel refused its arguments, status ", status);
  return {adjoint.dx, adjoint.dscale, adjoint.dshift};
}

}  // namespace abcfx
