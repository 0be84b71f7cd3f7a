#pragma once
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

Tensor linear(const Tensor& bits, const Tensor& weight_bits, const Tensor& alpha, const Tensor& tap_sums,
              const std::optional<Tensor>& bias, const Tensor& scale, const Tensor& shift, StringHandle levels,
              int64_t depth);

Tensor conv2d(const Tensor& bits, const Tensor& weight_bits, const Tensor& alpha, const Tensor& tap_sums,
              const std::optional<Tensor>& bias, const Tensor& scale, const Tensor& shift, StringHandle levels,
              int64_t channels, std::vector<int64_t> kernel, std::vector<int64_t> stride,
              std::vector<int64_t> padding, std::vector<int64_t> dilation, int64_t groups);

}  // namespace abcfx::cuda
