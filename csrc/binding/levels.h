#pragma once
#include <optional>

#include "abcfx/pack.h"
#include "check.h"

namespace abcfx {

/// The activation levels of an op's arguments: sum_q beta[q] A_q + constant (abcfx/quant/activations.py).
struct Levels {
  Tensor scale, shift;
  int64_t kind, planes;
  float beta[ABCFX_MAX_BASES];
  float constant = 0.0f;
  float beta_sum = 0.0f;

  Levels(const char* op, const Tensor& scale_argument, const Tensor& shift_argument, int64_t plane_count,
         StringHandle text)
      : scale(scale_argument), shift(shift_argument), kind(expect_levels(op, text)), planes(plane_count) {
    expect_range(op, "the number of planes", planes, 1, ABCFX_MAX_BASES);
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
    if (has_next(op, scale, shift, planes)) {
      levels.emplace(op, *scale, *shift, planes, text);
    } else {
      const Text owner(text);
    }
  }
};

/// A CPU tensor of a type that the kernels read -> its abcfx_dtype.
inline int64_t expect_float(const char* op, const Tensor& input) {
  OnCpu().expect_here(op, "input", input);
  return expect_float_type(op, input);
}

/// The same, of this many dimensions and any strides.
inline int64_t expect_strided(const char* op, const Tensor& input, int64_t dims) {
  expect_dims(op, input, dims);
  return expect_float(op, input);
}

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
  Tensor dst = new_tensor(like, {levels.planes, rows, (depth + 63) / 64}, ScalarType::Long);
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
  Tensor dst = new_bit_image(op, like, levels.planes, images, channels, height, width, groups, padding);
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
