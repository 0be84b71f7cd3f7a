#pragma once
#include <tuple>

#include "cuda_check.h"

// The CUDA implementations of the abc_k ops, with the schemas of abcfx/ops/kernel_*.py. Planes have the layout of the
// CPU's; packed weights have the device's own (abcfx/ops/kernel_weights.py: lanes = 1).
namespace abcfx::cuda {

#include "ops.inc"

}  // namespace abcfx::cuda
