#pragma once
#include <tuple>

#include "cuda_check.h"

// The CUDA implementations of the abc_k ops, with the schemas of abcfx/ops/kernel_*.py. Planes have the layout of the
// CPU's; packed weights have the device's own (abcfx/ops/kernel_weights.py: lanes = 1).
namespace abcfx::cuda {

Tensor pack_weights(const Tensor& bases, int64_t groups, int64_t lanes);

Tensor pack_rows(const Tensor& input, const Tensor& scale, const Tensor& shift, int64_t planes, StringHandle levels,
                 const std::optional<Tensor>& gain, const std::optional<Tensor>& offset, double low, double high);

Tensor pack_image(const Tensor& input, const Tensor& scale, const Tensor& shift, int64_t planes, StringHandle levels,
                  int64_t groups, std::vector<int64_t> padding, const std::optional<Tensor>& gain,
                  const std::optional<Tensor>& offset, double low, double high);

Tensor round_gradient(const Tensor& grad, const Tensor& gain, const Tensor& inverse, const Tensor& seed, int64_t planes);

std::tuple<Tensor, Tensor> pack_positions(const Tensor& bits, int64_t channels, std::vector<int64_t> kernel,
                                          std::vector<int64_t> stride, std::vector<int64_t> dilation,
                                          std::vector<int64_t> out, int64_t lanes);

Tensor unpack_rows(const Tensor& bits, const Tensor& scale, const Tensor& shift, StringHandle levels, int64_t depth);

Tensor unpack_image(const Tensor& bits, const Tensor& scale, const Tensor& shift, StringHandle levels,
                    int64_t channels, int64_t groups, std::vector<int64_t> padding);

Tensor window_bits(const Tensor& input, const Tensor& scale, const Tensor& shift, int64_t planes, StringHandle levels,
                   const std::optional<Tensor>& edges);

std::tuple<Tensor, Tensor, Tensor> window_adjoint(const Tensor& grad, const Tensor& windows, const Tensor& scale,
                                                  int64_t planes, StringHandle levels,
                                                  const std::optional<Tensor>& sample_scale);

Tensor linear(const Tensor& bits, const Tensor& weight_bits, const Tensor& alpha, const Tensor& tap_sums,
              const std::optional<Tensor>& bias, const Tensor& scale, const Tensor& shift, StringHandle levels,
              int64_t depth);

Tensor conv2d(const Tensor& bits, const Tensor& weight_bits, const Tensor& alpha, const Tensor& tap_sums,
              const std::optional<Tensor>& bias, const Tensor& scale, const Tensor& shift, StringHandle levels,
              int64_t channels, std::vector<int64_t> kernel, std::vector<int64_t> stride,
              std::vector<int64_t> padding, std::vector<int64_t> dilation, int64_t groups);

Tensor max_pool_bits(const Tensor& bits, StringHandle levels, std::vector<int64_t> kernel, std::vector<int64_t> stride,
                     std::vector<int64_t> padding, std::vector<int64_t> before, std::vector<int64_t> after);

std::tuple<Tensor, Tensor> linear_emit(const Tensor& bits, const Tensor& weight_bits, const Tensor& alpha,
                                       const Tensor& tap_sums, const std::optional<Tensor>& bias, const Tensor& scale,
                                       const Tensor& shift, StringHandle levels, int64_t depth,
                                       const std::optional<Tensor>& residual, const std::optional<Tensor>& slope,
                                       double low, double high, const std::optional<Tensor>& gain,
                                       const std::optional<Tensor>& offset, double next_low, double next_high,
                                       const std::optional<Tensor>& next_scale,
                                       const std::optional<Tensor>& next_shift, int64_t next_planes,
                                       StringHandle next_levels, bool keep);

std::tuple<Tensor, Tensor> conv2d_emit(
    const Tensor& bits, const Tensor& weight_bits, const Tensor& alpha, const Tensor& tap_sums,
    const std::optional<Tensor>& bias, const Tensor& scale, const Tensor& shift, StringHandle levels, int64_t channels,
    std::vector<int64_t> kernel, std::vector<int64_t> stride, std::vector<int64_t> padding,
    std::vector<int64_t> dilation, int64_t groups, const std::optional<Tensor>& residual,
    const std::optional<Tensor>& slope, double low, double high, const std::optional<Tensor>& gain,
    const std::optional<Tensor>& offset, double next_low, double next_high, const std::optional<Tensor>& next_scale,
    const std::optional<Tensor>& next_shift, int64_t next_planes, StringHandle next_levels, int64_t next_groups,
    std::vector<int64_t> next_padding, bool keep);

}  // namespace abcfx::cuda
