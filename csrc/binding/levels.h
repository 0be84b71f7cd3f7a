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

/// The levels of a layer that reads what this one emits; none if it emits no planes.
struct NextLevels {
  std::optional<Levels> levels;

  NextLevels(const char* op, const std::optional<Tensor>& scale, const std::optional<Tensor>& shift, int64_t planes,
             StringHandle text) {
    STD_TORCH_CHECK(scale.has_value() == shift.has_value() && scale.has_value() == (planes > 0), "abc_k::", op,
                    ": next_scale, next_shift and next_planes go together, got ", planes, " planes");
    if (scale) {
      levels.emplace(op, *scale, *shift, planes, text);
    } else {
      const Text owner(text);
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

  const float* gain_data() const { return gain ? gain->const_data_ptr<float>() : nullptr; }
  const float* offset_data() const { return offset ? offset->const_data_ptr<float>() : nullptr; }
};

/// How values are quantized and where their bits go; the source, its type and strides and the affine are the caller's.
inline abcfx_pack_args pack_into(Tensor& dst, const Levels& levels) {
  abcfx_pack_args args = {};
  args.dst = reinterpret_cast<uint64_t*>(dst.mutable_data_ptr<int64_t>());
  args.scale = levels.scale.const_data_ptr<float>();
  args.shift = levels.shift.const_data_ptr<float>();
  args.levels = levels.kind;
  args.planes = levels.planes;
  args.images = args.height = args.groups = args.line_end = 1;
  return args;
}

/// Planes of `rows` rows of `depth` values [planes, rows, words], all of them.
inline Tensor pack_rows_into(abcfx_pack_args& args, const Tensor& like, const Levels& levels, int64_t rows,
                             int64_t depth) {
  Tensor dst = torch::stable::new_empty(like, {levels.planes, rows, (depth + 63) / 64}, ScalarType::Long);
  args = pack_into(dst, levels);
  args.channels = args.stride_w = depth;
  args.stride_c = 1;
  args.width = args.pixel_end = rows;
  return dst;
}

/// A padded bit image [n, h + 2ph, planes, w + 2pw, groups * words], all of it.
inline Tensor pack_image_into(abcfx_pack_args& args, const char* op, const Tensor& like, const Levels& levels,
                              int64_t images, int64_t channels, int64_t height, int64_t width, int64_t groups,
                              const std::vector<int64_t>& padding) {
  expect_pair(op, "padding", padding, 0);
  STD_TORCH_CHECK(groups >= 1 && channels % groups == 0, "abc_k::", op, ": ", channels,
                  " channels cannot be split into ", groups, " groups");
  const int64_t pixel = groups * ((channels / groups + 63) / 64);
  Tensor dst = torch::stable::new_empty(
      like, {images, height + 2 * padding[0], levels.planes, width + 2 * padding[1], pixel}, ScalarType::Long);
  args = pack_into(dst, levels);
  args.images = images;
  args.channels = channels;
  args.height = height;
  args.width = args.pixel_end = width;
  args.stride_c = 1;
  args.stride_w = channels;
  args.stride_h = width * channels;
  args.stride_n = height * args.stride_h;
  args.top = args.bottom = padding[0];
  args.left = args.right = padding[1];
  args.groups = groups;
  args.line_end = images * (height + 2 * padding[0]);
  return dst;
}

}  // namespace abcfx
