#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "abcfx/pack.h"

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

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// A contiguous tensor of this dtype, dimension count and shape (-1: any size), wherever it is.
inline Tensor expect_anywhere(const char* op, const char* name, const Tensor& tensor, ScalarType dtype,
                              std::initializer_list<int64_t> shape) {
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, "abc_k::", op, ": ", name, " must be ",
                  torch::headeronly::toString(dtype), ", got ", torch::headeronly::toString(tensor.scalar_type()));
  STD_TORCH_CHECK(has_shape(tensor, shape), "abc_k::", op, ": ", name, " must have shape ", shape_text(shape),
                  ", got ", shape_text(tensor));
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

/// The same, on the CPU.
inline Tensor expect(const char* op, const char* name, const Tensor& tensor, ScalarType dtype,
                     std::initializer_list<int64_t> shape) {
  STD_TORCH_CHECK(tensor.is_cpu(), "abc_k::", op, ": ", name, " must be a CPU tensor");
  return expect_anywhere(op, name, tensor, dtype, shape);
}

/// `expect` as an object, for checks that both devices share; the other one is cuda::OnDeviceOf.
struct OnCpu {
  Tensor expect(const char* op, const char* name, const Tensor& tensor, ScalarType dtype,
                std::initializer_list<int64_t> shape) const {
    return abcfx::expect(op, name, tensor, dtype, shape);
  }
  void expect_here(const char* op, const char* name, const Tensor& tensor) const {
    STD_TORCH_CHECK(tensor.is_cpu(), "abc_k::", op, ": ", name, " must be a CPU tensor");
  }
};

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

/// The window of a convolution, two entries an axis, in the fields that the arguments of every kernel name alike.
template <class Args>
void set_window(Args& args, const std::vector<int64_t>& kernel, const std::vector<int64_t>& stride,
                const std::vector<int64_t>& dilation) {
  args.kernel_h = kernel[0];
  args.kernel_w = kernel[1];
  args.stride_h = stride[0];
  args.stride_w = stride[1];
  args.dilation_h = dilation[0];
  args.dilation_w = dilation[1];
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

/// "coded" or "thermometer" -> enum abcfx_levels.
inline int64_t expect_levels(const char* op, StringHandle text) {
  const Text owner(text);
  const std::string name = owner.str();
  STD_TORCH_CHECK(name == "coded" || name == "thermometer", "abc_k::", op,
                  ": levels must be 'coded' or 'thermometer', got '", name, "'");
  return name == "coded" ? ABCFX_CODED : ABCFX_THERMOMETER;
}

/// The type of a tensor that the kernels read -> enum abcfx_dtype.
inline int64_t expect_float_type(const char* op, const Tensor& input) {
  const ScalarType type = input.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half, "abc_k::", op,
                  ": input must be Float, BFloat16 or Half, got ", torch::headeronly::toString(type), "; cast it");
  return type == ScalarType::Float ? ABCFX_F32 : type == ScalarType::BFloat16 ? ABCFX_BF16 : ABCFX_F16;
}

/// Refuses an input that has not this many dimensions; strides may be any.
inline void expect_dims(const char* op, const Tensor& input, int64_t dims) {
  STD_TORCH_CHECK(input.dim() == dims, "abc_k::", op, ": input must have ", dims, " dimensions, got shape ",
                  shape_text(input));
}

/// Whether a layer emits planes for a next one; refuses levels of which only a part is given.
inline bool has_next(const char* op, const std::optional<Tensor>& scale, const std::optional<Tensor>& shift,
                     int64_t planes) {
  STD_TORCH_CHECK(scale.has_value() == shift.has_value() && scale.has_value() == (planes > 0), "abc_k::", op,
                  ": next_scale, next_shift and next_planes go together, got ", planes, " planes");
  return scale.has_value();
}

/// gain and offset of a batch norm in front, one for each channel: both given or neither.
struct ChannelAffine {
  std::optional<Tensor> gain, offset;

  template <class Where>
  ChannelAffine(const Where& where, const char* op, const std::optional<Tensor>& gain_argument,
                const std::optional<Tensor>& offset_argument, int64_t channels) {
    STD_TORCH_CHECK(gain_argument.has_value() == offset_argument.has_value(), "abc_k::", op,
                    ": gain and offset go together, got only ", gain_argument ? "gain" : "offset");
    if (!gain_argument) return;
    gain = where.expect(op, "gain", *gain_argument, ScalarType::Float, {channels});
    offset = where.expect(op, "offset", *offset_argument, ScalarType::Float, {channels});
  }

  const float* gain_data() const { return gain ? gain->const_data_ptr<float>() : nullptr; }
  const float* offset_data() const { return offset ? offset->const_data_ptr<float>() : nullptr; }
};

/// A contiguous tensor on the device of `like`, not written yet. torch::stable::new_empty goes through the dispatcher, which
/// takes several microseconds.
inline Tensor new_tensor(const Tensor& like, const std::vector<int64_t>& sizes, ScalarType dtype) {
  std::vector<int64_t> strides(sizes.size());
  int64_t step = 1;
  for (size_t axis = sizes.size(); axis-- > 0;) {
    strides[axis] = step;
    step *= std::max<int64_t>(sizes[axis], 1);
  }
  const torch::stable::Device device = like.device();
  AtenTensorHandle handle = nullptr;
  STD_TORCH_CHECK(aoti_torch_empty_strided((int64_t)sizes.size(), sizes.data(), strides.data(),
                                           torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)),
                                           (int32_t)device.type(), device.index(), &handle) == AOTI_TORCH_SUCCESS,
                  "abc_k: cannot allocate a tensor of ", step, " elements");
  return Tensor(handle);
}

/// A padded bit image [n, h + 2ph, planes, w + 2pw, groups * words], not written yet.
inline Tensor new_bit_image(const char* op, const Tensor& like, int64_t planes, int64_t images, int64_t channels,
                            int64_t height, int64_t width, int64_t groups, const std::vector<int64_t>& padding) {
  expect_pair(op, "padding", padding, 0);
  STD_TORCH_CHECK(groups >= 1 && channels % groups == 0, "abc_k::", op, ": ", channels,
                  " channels cannot be split into ", groups, " groups");
  const int64_t pixel = groups * ceil_div(channels / groups, 64);
  return new_tensor(
      like, {images, height + 2 * padding[0], planes, width + 2 * padding[1], pixel}, ScalarType::Long);
}

}  // namespace abcfx
