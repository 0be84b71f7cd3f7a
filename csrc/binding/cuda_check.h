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
  return expect_anywhere(op, name, tensor, dtype, shape);
}

/// The same as an object: see OnCpu in check.h.
struct OnDeviceOf {
  const Tensor& like;

  Tensor expect(const char* op, const char* name, const Tensor& tensor, ScalarType dtype,
                std::initializer_list<int64_t> shape) const {
    return cuda::expect(op, name, tensor, like, dtype, shape);
  }
  void expect_here(const char* op, const char* name, const Tensor& tensor) const {
    STD_TORCH_CHECK(is_on_device(tensor), "abc_k::", op, ": ", name, " must be a CUDA tensor");
  }
};

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

inline int64_t words_of(int64_t values) { return ceil_div(values, 64); }

inline void expect_device_lanes(const char* op, int64_t lanes) {
  STD_TORCH_CHECK(lanes == 1, "abc_k::", op, ": lanes must be 1 on a CUDA device (a whole reduction contiguous), got ",
                  lanes);
}

/// The activation levels of an op's arguments, values left on the device: nothing waits for them.
struct Levels {
  Tensor scale, shift;
  int64_t kind, planes;

  Levels(const char* op, const Tensor& scale_argument, const Tensor& shift_argument, const Tensor& like,
         int64_t plane_count, StringHandle text)
      : scale(scale_argument), shift(shift_argument), kind(expect_levels(op, text)), planes(plane_count) {
    STD_TORCH_CHECK(is_on_device(like), "abc_k::", op, ": the first argument must be a CUDA tensor, as others are");
    expect_range(op, "the number of planes", planes, 1, ABCFX_MAX_BASES);
    const int64_t entries = kind == ABCFX_CODED ? 1 : planes;
    scale = expect(op, "scale", scale_argument, like, ScalarType::Float, {entries});
    shift = expect(op, "shift", shift_argument, like, ScalarType::Float, {entries});
  }
};

}  // namespace abcfx::cuda
