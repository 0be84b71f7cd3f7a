#include "abcfx/adjoint.h"
#include "abcfx/window.h"
#include "levels.h"
#include "ops.h"
#include "parallel.h"

namespace abcfx {
namespace {

int64_t planes_of_windows(const Levels& levels) { return levels.kind == ABCFX_CODED ? 2 : 2 * levels.planes; }

/// The edges of the windows of thermometer levels, checked; coded levels have none.
std::optional<Tensor> expect_edges(const Levels& levels, const std::optional<Tensor>& argument) {
  if (levels.kind == ABCFX_CODED) return std::nullopt;
  STD_TORCH_CHECK(argument, "abc_k::window_bits: thermometer levels need edges, the least and the greatest value of the ",
                  "window of each plane (abcfx.quant.ste.thermometer_windows)");
  return expect("window_bits", "edges", *argument, ScalarType::Float, {2, levels.planes});
}

/// sample_scale, checked, and how many elements it is one factor for; samples must follow each other in memory.
std::optional<Tensor> expect_samples(const Tensor& grad, const std::optional<Tensor>& argument, int64_t* sample) {
  *sample = 0;
  if (!argument) return std::nullopt;
  STD_TORCH_CHECK(grad.dim() > 0, "abc_k::window_adjoint: sample_scale needs a gradient with a dimension of samples");
  const Tensor factors = expect("window_adjoint", "sample_scale", *argument, ScalarType::Float, {grad.size(0)});
  if (grad.numel() == 0) return std::nullopt;
  *sample = grad.numel() / grad.size(0);
  STD_TORCH_CHECK(grad.size(0) == 1 || grad.stride(0) == *sample,
                  "abc_k::window_adjoint: sample_scale needs samples that follow each other in memory, got shape ",
                  shape_text(grad), " with a stride of ", grad.stride(0), " between samples of ", *sample,
                  " elements; multiply grad before the call");
  return factors;
}

}  // namespace

Tensor window_bits(const Tensor& input, const Tensor& scale, const Tensor& shift, int64_t planes, StringHandle text,
                   const std::optional<Tensor>& edges_argument) {
  const Levels levels("window_bits", scale, shift, planes, text);
  const std::optional<Tensor> edges = expect_edges(levels, edges_argument);
  abcfx_window_args args = {};
  args.dtype = expect_float("window_bits", input);
  expect_dense("window_bits", "input", input);
  args.count = input.numel();
  Tensor dst = torch::stable::new_empty(input, {planes_of_windows(levels), ceil_div(args.count, 8)}, ScalarType::Byte);
  args.src = input.const_data_ptr();
  args.dst = dst.mutable_data_ptr<uint8_t>();
  args.scale = levels.scale.const_data_ptr<float>();
  args.shift = levels.shift.const_data_ptr<float>();
  args.edges = edges ? edges->const_data_ptr<float>() : nullptr;
  args.levels = levels.kind;
  args.planes = planes;
  const abcfx_window_fn kernel = abcfx_window_choose();
  const int64_t bytes = args.count * (args.dtype == ABCFX_F32 ? 4 : 2);
  const int status = run_ranges(ceil_div(args.count, ABCFX_WINDOW_BLOCK), bytes, [&](int64_t begin, int64_t end) {
    abcfx_window_args part = args;
    part.block_begin = begin;
    part.block_end = end;
    return kernel(&part);
  });
  STD_TORCH_CHECK(status == ABCFX_OK, "abc_k::window_bits: the kernel refused its arguments, status ", status);
  return dst;
}

std::tuple<Tensor, Tensor, Tensor> window_adjoint(const Tensor& grad, const Tensor& windows_argument,
                                                  const Tensor& scale, int64_t planes, StringHandle text,
                                                  const std::optional<Tensor>& sample_scale) {
  const Levels levels("window_adjoint", scale, scale, planes, text);  // the shift, of the same shape, is not needed
  STD_TORCH_CHECK(grad.is_cpu() && grad.scalar_type() == ScalarType::Float,
                  "abc_k::window_adjoint: grad must be a CPU tensor of Float, got ",
                  torch::headeronly::toString(grad.scalar_type()));
  expect_dense("window_adjoint", "grad", grad);
  const int64_t rows = planes_of_windows(levels), count = grad.numel();
  const Tensor windows =
      expect("window_adjoint", "windows", windows_argument, ScalarType::Byte, {rows, ceil_div(count, 8)});
  const int64_t chunks = ceil_div(count, ABCFX_ADJOINT_CHUNK), entries = rows / 2;
  Tensor dx = torch::stable::empty_like(grad);
  Tensor sums = torch::stable::new_empty(grad, {chunks, rows}, ScalarType::Double);
  Tensor dscale = torch::stable::new_empty(grad, {entries}, ScalarType::Float);
  Tensor dshift = torch::stable::empty_like(dscale);
  abcfx_adjoint_args args = {};
  const std::optional<Tensor> factors = expect_samples(grad, sample_scale, &args.sample);
  args.grad = grad.const_data_ptr<float>();
  args.windows = windows.const_data_ptr<uint8_t>();
  args.scale = levels.scale.const_data_ptr<float>();
  args.sample_scale = factors ? factors->const_data_ptr<float>() : nullptr;
  args.dx = dx.mutable_data_ptr<float>();
  args.sums = sums.mutable_data_ptr<double>();
  args.levels = levels.kind;
  args.planes = planes;
  args.count = count;
  const abcfx_adjoint_fn kernel = abcfx_adjoint_choose();
  int status = run_ranges(chunks, count * 8, [&](int64_t begin, int64_t end) {
    abcfx_adjoint_args part = args;
    part.chunk_begin = begin;
    part.chunk_end = end;
    return kernel(&part);
  });
  if (status == ABCFX_OK) {
    status = abcfx_adjoint_finish(&args, dscale.mutable_data_ptr<float>(), dshift.mutable_data_ptr<float>());
  }
  STD_TORCH_CHECK(status == ABCFX_OK, "abc_k::window_adjoint: the kernel refused its arguments, status ", status);
  return {dx, dscale, dshift};
}

}  // namespace abcfx
