#pragma once
#include <optional>

#include "abcfx/pack.h"
#include "check.h"

namespace abcfx {

/// The activation levels of an op's arguments: sum_q beta[q] A_q + constant (abcfx/quant/activations.py).
struct Levels {
  Tensor scale, shift;
  int64_t kind = ABCFX_CODED;
  int64_t planes;
  float beta[ABCFX_MAX_BASES];
  float constant = 0.0f;
  float beta_sum = 0.0f;

  Levels(const char* op, const Tensor& scale_argument, const Tensor& shift_argument, int64_t plane_count,
         StringHandle text)
      : scale(scale_argument), shift(shift_argument), planes(plane_count) {
    const Text owner(text);
    const std::string name = owner.str();
    STD_TORCH_CHECK(name == "coded" || name == "thermometer", "abc_k::", op,
                    ": levels must be 'coded' or 'thermometer', got '", name, "'");
    expect_range(op, "the number of planes", planes, 1, ABCFX_MAX_BASES);
    kind = name == "coded" ? ABCFX_CODED : ABCFX_THERMOMETER;
    const int64_t entries = kind == ABCFX_CODED ? 1 : planes;
    scale = expect(op, "scale", scale_argument, ScalarType::Float, {entries});
    shift = expect(op, "shift", shift_argument, ScalarType::Float, {entries});
    const float* values = scale.const_data_ptr<float>();
    for (int64_t q = 0; q < planes; ++q) {
      beta[q] = kind == ABCFX_CODED ? values[0] * (float)(1 << q) * 0.5f : values[q];
      beta_sum += beta[q];
    }
    if (kind == ABCFX_CODED) {
      constant = shift.const_data_ptr<float>()[0] + values[0] * (float)((1 << planes) - 1) * 0.5f;
    }
  }
};

/// A CPU tensor of a type that the kernels read -> its abcfx_dtype.
inline int64_t expect_float(const char* op, const Tensor& input) {
  STD_TORCH_CHECK(input.is_cpu(), "abc_k::", op, ": input must be a CPU tensor");
  const ScalarType type = input.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half, "abc_k::", op,
                  ": input must be Float, BFloat16 or Half, got ", torch::headeronly::toString(type), "; cast it");
  return type == ScalarType::Float ? ABCFX_F32 : type == ScalarType::BFloat16 ? ABCFX_BF16 : ABCFX_F16;
}

/// The same, of this many dimensions and any strides.
inline int64_t expect_strided(const char* op, const Tensor& input, int64_t dims) {
  STD_TORCH_CHECK(input.dim() == dims, "abc_k::", op, ": input must have ", dims, " dimensions, got shape ",
                  shape_text(input));
  return expect_float(op, input);
}

/// gain and offset of a batch norm in front, one for each channel: both given or neither.
struct ChannelAffine {
  std::optional<Tensor> gain, offset;

  ChannelAffine(const char* op, const std::optional<Tensor>& gain_argument,
                const std::optional<Tensor>& offset_argument, int64_t channels) {
    STD_TORCH_CHECK(gain_argument.has_value() == offset_argument.has_value(), "abc_k::", op,
                    ": gain and offset go together, got only ", gain_argument ? "gain" : "offset");
    if (!gain_argument) return;
    gain = expect(op, "gain", *gain_argument, ScalarType::Float, {channels});
    offset = expect(op, "offset", *offset_argument, ScalarType::Float, {channels});
  }
};

}  // namespace abcfx
