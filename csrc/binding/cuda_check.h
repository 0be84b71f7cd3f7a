#pragma once
#include <cuda_device.h>

#include <optional>

#include "abcfx/cuda.h"
#include "check.h"

// What every CUDA op checks around its kernels.
namespace abcfx::cuda {

/// `expect` of check.h, for a tensor on the device of `like`.
inline Tensor expect(const char* op, const char* name, const Tensor& tensor, const Tensor& like, ScalarType dtype,
                     std::initializer_list<int64_t> shape) {
  STD_TORCH_CHECK(is_on_device(tensor) && tensor.get_device_index() == like.get_device_index(), "abc_k::", op, ": ",
                  name, " must be on the device of the first argument, cuda:", like.get_device_index());
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, "abc_k::", op, ": ", name, " must be ",
                  torch::headeronly::toString(dtype), ", got ", torch::headeronly::toString(tensor.scalar_type()));
  STD_TORCH_CHECK(has_shape(tensor, shape), "abc_k::", op, ": ", name, " must have shape ", shape_text(shape),
                  ", got ", shape_text(tensor));
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

/// A status of abcfx/cuda.h -> nothing, or a sentence that says what to do.
inline void check(const char* op, int status) {
  STD_TORCH_CHECK(status != ABCFX_NO_BIT_UNITS, "abc_k::", op,
                  ": this device has no bit matrix units (compute capability 10.0 and later); use the dense form");
  STD_TORCH_CHECK(status != ABCFX_CUDA_FAILED, "abc_k::", op,
                  ": a CUDA launch failed; CUDA_LAUNCH_BLOCKING=1 shows the first call that did");
  STD_TORCH_CHECK(status != ABCFX_UNSUPPORTED, "abc_k::", op,
                  ": these sizes are beyond the CUDA kernels (docs/cuda.md, Limits); use the dense form");
  STD_TORCH_CHECK(status == ABCFX_OK, "abc_k::", op, ": the kernel refused its arguments, status ", status);
}

inline int64_t words_of(int64_t values) { return (values + 63) / 64; }

/// The activation levels of an op's arguments, values left on the device: nothing waits for them.
struct Levels {
  Tensor scale, shift;
  int64_t kind, planes;

  Levels(const char* op, const Tensor& scale_argument, const Tensor& shift_argument, const Tensor& like,
         int64_t plane_count, StringHandle text)
      : scale(scale_argument), shift(shift_argument), kind(ABCFX_CODED), planes(plane_count) {
    const Text owner(text);
    const std::string name = owner.str();
    STD_TORCH_CHECK(name == "coded" || name == "thermometer", "abc_k::", op,
                    ": levels must be 'coded' or 'thermometer', got '", name, "'");
    expect_range(op, "the number of planes", planes, 1, ABCFX_MAX_BASES);
    kind = name == "coded" ? ABCFX_CODED : ABCFX_THERMOMETER;
    const int64_t entries = kind == ABCFX_CODED ? 1 : planes;
    scale = expect(op, "scale", scale_argument, like, ScalarType::Float, {entries});
    shift = expect(op, "shift", shift_argument, like, ScalarType::Float, {entries});
  }
};

}  // namespace abcfx::cuda
