#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

// Every argument is checked here, in sentences with numbers: the kernels trust what they are given.
namespace abcfx {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline std::string shape_text(const Tensor& tensor) {
  std::string text = "[";
  for (int64_t i = 0; i < tensor.dim(); ++i) text += (i ? ", " : "") + std::to_string(tensor.size(i));
  return text + "]";
}

inline std::string shape_text(std::initializer_list<int64_t> shape) {
  std::string text = "[";
  for (const int64_t size : shape) {
    text += (text.size() > 1 ? ", " : "") + (size < 0 ? std::string("any") : std::to_string(size));
  }
  return text + "]";
}

inline bool has_shape(const Tensor& tensor, std::initializer_list<int64_t> shape) {
  const auto sizes = tensor.sizes();
  if (sizes.size() != shape.size()) return false;
  const int64_t* wanted = shape.begin();
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    if (wanted[axis] >= 0 && sizes[axis] != wanted[axis]) return false;
  }
  return true;
}

/// A contiguous tensor of this dtype, dimension count and shape (-1: any size).
inline Tensor expect(const char* op, const char* name, const Tensor& tensor, ScalarType dtype,
                     std::initializer_list<int64_t> shape) {
  STD_TORCH_CHECK(tensor.is_cpu(), "abc_k::", op, ": ", name, " must be a CPU tensor");
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, "abc_k::", op, ": ", name, " must be ",
                  torch::headeronly::toString(dtype), ", got ", torch::headeronly::toString(tensor.scalar_type()));
  STD_TORCH_CHECK(has_shape(tensor, shape), "abc_k::", op, ": ", name, " must have shape ", shape_text(shape),
                  ", got ", shape_text(tensor));
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

inline void expect_range(const char* op, const char* name, int64_t value, int64_t low, int64_t high) {
  STD_TORCH_CHECK(value >= low && value <= high, "abc_k::", op, ": ", name, " must be from ", low, " to ", high,
                  ", got ", value);
}

/// A list of two integers, both at least `low`.
inline void expect_pair(const char* op, const char* name, const std::vector<int64_t>& values, int64_t low) {
  STD_TORCH_CHECK(values.size() == 2, "abc_k::", op, ": ", name, " must have 2 entries, got ", values.size());
  for (const int64_t value : values) {
    STD_TORCH_CHECK(value >= low, "abc_k::", op, ": ", name, " must be at least ", low, ", got ", value);
  }
}

/// Refuses a tensor whose elements do not fill their memory without gaps or overlap, in any order of the dimensions.
inline void expect_dense(const char* op, const char* name, const Tensor& tensor) {
  std::vector<std::pair<int64_t, int64_t>> axes;
  std::string strides = "[";
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    if (tensor.size(i) != 1) axes.emplace_back(tensor.stride(i), tensor.size(i));
    strides += (i ? ", " : "") + std::to_string(tensor.stride(i));
  }
  std::sort(axes.begin(), axes.end());
  int64_t step = 1;
  bool dense = true;
  for (const auto& [stride, size] : axes) {
    dense = dense && stride == step;
    step *= size;
  }
  STD_TORCH_CHECK(dense || tensor.numel() == 0, "abc_k::", op, ": ", name,
                  " must be dense (a permutation of a contiguous tensor), got strides ", strides, "] of shape ",
                  shape_text(tensor), "; call contiguous()");
}

/// Owner of a string argument. Taking std::string instead would leak: its conversion in torch's stable headers (2.10 to
/// 2.13) copies from a string that it allocates and never frees.
class Text {
 public:
  explicit Text(StringHandle handle) : handle_(handle) {}
  ~Text() { torch_delete_string(handle_); }
  Text(const Text&) = delete;
  Text& operator=(const Text&) = delete;

  std::string str() const {
    size_t length = 0;
    const char* data = nullptr;
    STD_TORCH_CHECK(torch_string_length(handle_, &length) == AOTI_TORCH_SUCCESS &&
                        torch_string_c_str(handle_, &data) == AOTI_TORCH_SUCCESS,
                    "abc_k: a string argument cannot be read");
    return std::string(data, length);
  }

 private:
  StringHandle handle_;
};

}  // namespace abcfx
