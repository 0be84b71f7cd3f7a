#pragma once
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

// The device that the CUDA ops run on. Compiled with USE_CUDA defined, which the stream's declaration needs. The tests
// give a header of this name that stands for a CPU (tests/cuda/emulated), so that the ops run without a GPU.
#define ABCFX_DEVICE_KEY CUDA

namespace abcfx::cuda {

inline bool is_on_device(const torch::stable::Tensor& tensor) { return tensor.is_cuda(); }

/// Makes the device of a tensor the current one for a scope. Kernels go to torch's current stream of that device: they
/// are in order with torch's own, and recorded where a CUDA graph is being captured.
class Scope {
 public:
  explicit Scope(const torch::stable::Tensor& tensor) : guard_(tensor.get_device_index()) {
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream) == AOTI_TORCH_SUCCESS,
                    "abc_k: the current CUDA stream cannot be read");
  }

  void* stream = nullptr;  ///< cudaStream_t

 private:
  torch::stable::accelerator::DeviceGuard guard_;
};

}  // namespace abcfx::cuda
