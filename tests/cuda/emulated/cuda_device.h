#pragma once
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

// Stands for csrc/binding/cuda/cuda_device.h: CPU tensors, and no stream.
#define ABCFX_DEVICE_KEY CPU

namespace abcfx::cuda {

inline bool is_on_device(const torch::stable::Tensor& tensor) { return tensor.is_cpu(); }

struct Scope {
  explicit Scope(const torch::stable::Tensor&) {}
  void* stream = nullptr;
};

}  // namespace abcfx::cuda
