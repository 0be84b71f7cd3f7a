#pragma once
#include <tuple>

#include "check.h"

// The CPU implementations of the abc_k ops. Their schemas, fakes and references are in abcfx/ops/kernel_*.py.
namespace abcfx {

#include "ops.inc"

std::tuple<Tensor, Tensor, Tensor, Tensor> refit_weights(const Tensor& weight, const Tensor& alpha,
                                                         int64_t alternations, bool coded);

Tensor search_scales(const Tensor& sorted, const Tensor& prefix, const Tensor& rms, int64_t bases, bool coded);

std::tuple<Tensor, Tensor> fit_lines(const Tensor& sorted, const Tensor& prefix, const Tensor& lines, int64_t top,
                                     bool anchored, int64_t alternations);

std::tuple<Tensor, Tensor> dequantize_weights(const Tensor& bases, const Tensor& alpha);

std::vector<Tensor> chain_kernels(std::vector<Tensor> inputs, StringHandle program);

}  // namespace abcfx
