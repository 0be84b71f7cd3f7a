#pragma once
#include <optional>

#include "abcfx/adjoint.h"
#include "abcfx/window.h"
#include "check.h"

// window_bits and window_adjoint, up to the kernel, as in gradient.h. `Levels` are those of the device.
namespace abcfx {

inline int64_t planes_of_windows(int64_t kind, int64_t planes) { return kind == ABCFX_CODED ? 2 : 2 * planes; }

struct Windows {
  Tensor dst;
  std::optional<Tensor> edges;  ///< coded levels have none
  abcfx_window_args args = {};

  template <class Where, class Levels>
  Windows(const Where& where, const Levels& levels, const Tensor& input, const std::optional<Tensor>& edges_argument)
      : dst(input) {
    const char* op = "window_bits";
    where.expect_here(op, "input", input);
    args.dtype = expect_float_type(op, input);
    expect_dense(op, "input", input);
    if (levels.kind == ABCFX_THERMOMETER) {
      STD_TORCH_CHECK(edges_argument, "abc_k::", op, ": thermometer levels need edges, the least and the greatest ",
                      "value of the window of each plane (abcfx.quant.ste.thermometer_windows)");
      edges = where.expect(op, "edges", *edges_argument, ScalarType::Float, {2, levels.planes});
      args.edges = edges->const_data_ptr<float>();
    }
    args.count = input.numel();
    dst = new_tensor(input, {planes_of_windows(levels.kind, levels.planes), ceil_div(args.count, 8)},
                                   ScalarType::Byte);
    args.src = input.const_data_ptr();
    args.dst = dst.mutable_data_ptr<uint8_t>();
    args.scale = levels.scale.template const_data_ptr<float>();
    args.shift = levels.shift.template const_data_ptr<float>();
    args.levels = levels.kind;
    args.planes = levels.planes;
  }
};

struct Adjoint {
  Tensor windows, dx, sums, dscale, dshift;
  std::optional<Tensor> factors;  ///< sample_scale
  abcfx_adjoint_args args = {};
  int64_t chunks;

  template <class Where, class Levels>
  Adjoint(const Where& where, const Levels& levels, const Tensor& grad, const Tensor& windows_argument,
          const std::optional<Tensor>& sample_scale)
      : windows(windows_argument), dx(grad), sums(grad), dscale(grad), dshift(grad) {
    const char* op = "window_adjoint";
    where.expect_here(op, "grad", grad);
    STD_TORCH_CHECK(grad.scalar_type() == ScalarType::Float, "abc_k::", op, ": grad must be Float, got ",
                    torch::headeronly::toString(grad.scalar_type()));
    expect_dense(op, "grad", grad);
    const int64_t rows = planes_of_windows(levels.kind, levels.planes), entries = rows / 2;
    args.count = grad.numel();
    windows = where.expect(op, "windows", windows_argument, ScalarType::Byte, {rows, ceil_div(args.count, 8)});
    chunks = ceil_div(args.count, ABCFX_ADJOINT_CHUNK);
    dx = torch::stable::empty_like(grad);
    sums = new_tensor(grad, {chunks, rows}, ScalarType::Double);
    dscale = new_tensor(grad, {entries}, ScalarType::Float);
    dshift = torch::stable::empty_like(dscale);
    if (sample_scale) take_factors(where, op, grad, *sample_scale);
    args.grad = grad.const_data_ptr<float>();
    args.windows = windows.const_data_ptr<uint8_t>();
    args.scale = levels.scale.template const_data_ptr<float>();
    args.dx = dx.mutable_data_ptr<float>();
    args.sums = sums.mutable_data_ptr<double>();
    args.levels = levels.kind;
    args.planes = levels.planes;
  }

 private:
  /// One factor for each sample; samples must follow each other in memory.
  template <class Where>
  void take_factors(const Where& where, const char* op, const Tensor& grad, const Tensor& argument) {
    STD_TORCH_CHECK(grad.dim() > 0, "abc_k::", op, ": sample_scale needs a gradient with a dimension of samples");
    factors = where.expect(op, "sample_scale", argument, ScalarType::Float, {grad.size(0)});
    if (args.count == 0) return;
    args.sample = args.count / grad.size(0);
    args.sample_scale = factors->const_data_ptr<float>();
    STD_TORCH_CHECK(grad.size(0) == 1 || grad.stride(0) == args.sample, "abc_k::", op,
                    ": sample_scale needs samples that follow each other in memory, got shape ", shape_text(grad),
                    " with a stride of ", grad.stride(0), " between samples of ", args.sample,
                    " elements; multiply grad before the call");
  }
};

}  // namespace abcfx
