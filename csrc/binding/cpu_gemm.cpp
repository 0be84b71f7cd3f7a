#include "abcfx/bgemm.h"
#include "abcfx/lut.h"
#include "abcfx/padding.h"
#include "levels.h"
#include "ops.h"
#include "parallel.h"

namespace abcfx {
namespace {

/// Weight operands, checked against each other. Their dtype says for which method they are packed: int64 words for
/// xor and popcount (abcfx/bgemm.h), bytes for table lookup (abcfx/lut.h).
struct Weights {
  Tensor bits, alpha, tap_sums;
  std::optional<Tensor> bias;
  int64_t bases, outputs, cols;
  bool lookup;

  Weights(const char* op, const Tensor& weight_bits, const Tensor& alpha_argument, const Tensor& tap_sums_argument,
          const std::optional<Tensor>& bias_argument, int64_t groups, int64_t taps, int64_t channels)
      : bits(weight_bits),
        alpha(alpha_argument),
        tap_sums(tap_sums_argument),
        lookup(weight_bits.scalar_type() == ScalarType::Byte) {
    alpha = expect(op, "alpha", alpha_argument, ScalarType::Float, {-1, -1});
    bases = alpha.size(0);
    outputs = alpha.size(1);
    expect_range(op, "the number of weight bases", bases, 1, ABCFX_MAX_BASES);
    STD_TORCH_CHECK(groups >= 1 && outputs % groups == 0, "abc_k::", op, ": ", outputs,
                    " output channels cannot be split into ", groups, " groups");
    cols = outputs / groups;
    if (lookup) {
      const int64_t lanes = abcfx_lut_lanes(nullptr);
      bits = expect(op, "weight_bits", weight_bits, ScalarType::Byte,
                    {groups, ceil_div(cols, lanes), abcfx_lut_vectors(bases, cols, lanes), taps, ceil_div(channels, 8),
                     lanes});
    } else {
      bits = expect(op, "weight_bits", weight_bits, ScalarType::Long,
                    {groups, ceil_div(cols, ABCFX_LANES), bases, taps * ceil_div(channels, 64), ABCFX_LANES});
    }
    tap_sums = expect(op, "tap_sums", tap_sums_argument, ScalarType::Float, {outputs, taps});
    if (bias_argument) bias = expect(op, "bias", *bias_argument, ScalarType::Float, {outputs});
  }
};

const uint64_t* words_of(const Tensor& tensor) {
  return reinterpret_cast<const uint64_t*>(tensor.const_data_ptr<int64_t>());
}

/// What linear and conv2d have in common once the geometry is in `args`: the base table, then the product.
Tensor multiply(const char* op, abcfx_bgemm_args& args, abcfx_padding_args& padding, const Tensor& bits,
                const Weights& weights, const Levels& levels, int64_t channels, Tensor dst) {
  std::vector<float> base(padding.classes_h * padding.classes_w * weights.outputs);
  padding.tap_sums = weights.tap_sums.const_data_ptr<float>();
  padding.bias = weights.bias ? weights.bias->const_data_ptr<float>() : nullptr;
  padding.base = base.data();
  padding.cols = weights.outputs;
  padding.kernel_h = args.kernel_h;
  padding.kernel_w = args.kernel_w;
  padding.constant = levels.constant;
  padding.beta_sum = levels.beta_sum;
  int status = abcfx_padding_base(&padding);

  args.a = words_of(bits);
  args.alpha = weights.alpha.const_data_ptr<float>();
  args.beta = levels.beta;
  args.base = base.data();
  args.dst = dst.mutable_data_ptr<float>();
  args.classes_w = padding.classes_w;
  args.weight_bases = weights.bases;
  args.activation_bases = levels.planes;
  args.cols = weights.cols;
  if (status == ABCFX_OK && weights.lookup) {
    abcfx_lut_args lookup = {args, weights.bits.const_data_ptr<uint8_t>(), channels, nullptr};
    status = run_lut_grid(lookup, abcfx_lut_lanes(nullptr));
  } else if (status == ABCFX_OK) {
    args.w = words_of(weights.bits);
    status = run_grid(args);
  }
  STD_TORCH_CHECK(status == ABCFX_OK, "abc_k::", op, ": the kernel refused its arguments, status ", status);
  return dst;
}

/// Output positions along one axis, and the padding class of each.
struct Axis {
  int64_t out, classes = 1;
  std::vector<int32_t> class_of, first, last;

  Axis(const char* name, int64_t padded, int64_t taps, int64_t stride, int64_t dilation, int64_t before) {
    const int64_t reach = dilation * (taps - 1) + 1;
    STD_TORCH_CHECK(padded >= 2 * before, "abc_k::conv2d: bits have padded ", name, " ", padded,
                    ", less than twice the padding ", before);
    STD_TORCH_CHECK(padded >= reach, "abc_k::conv2d: padded ", name, " ", padded, " is less than the kernel's reach ",
                    reach);
    out = (padded - reach) / stride + 1;
    class_of.resize(out);
    first.resize(out);
    last.resize(out);
    classes = abcfx_padding_classes(out, padded - 2 * before, taps, stride, dilation, before, class_of.data(),
                                    first.data(), last.data());
  }
};

}  // namespace

Tensor linear(const Tensor& bits_argument, const Tensor& weight_bits, const Tensor& alpha, const Tensor& tap_sums,
              const std::optional<Tensor>& bias, const Tensor& scale, const Tensor& shift, StringHandle text,
              int64_t depth) {
  const int64_t planes = bits_argument.dim() == 3 ? bits_argument.size(0) : 1;
  const Levels levels("linear", scale, shift, planes, text);
  STD_TORCH_CHECK(depth >= 0, "abc_k::linear: depth must not be negative, got ", depth);
  const int64_t words = ceil_div(depth, 64);
  const Tensor bits = expect("linear", "bits", bits_argument, ScalarType::Long, {-1, -1, words});
  const Weights weights("linear", weight_bits, alpha, tap_sums, bias, 1, 1, depth);
  const int64_t rows = bits.size(1);
  abcfx_bgemm_args args = {};
  args.images = args.padded_h = args.out_h = args.groups = 1;
  args.kernel_h = args.kernel_w = args.stride_h = args.stride_w = args.dilation_h = args.dilation_w = 1;
  args.padded_w = args.out_w = rows;
  args.words = words;
  args.depth = depth;
  const int32_t first = 0, last = 1;
  abcfx_padding_args padding = {};
  padding.classes_h = padding.classes_w = 1;
  padding.first_h = padding.first_w = &first;
  padding.last_h = padding.last_w = &last;
  return multiply("linear", args, padding, bits, weights, levels, depth,
                  torch::stable::new_empty(bits, {rows, weights.outputs}, ScalarType::Float));
}

Tensor conv2d(const Tensor& bits_argument, const Tensor& weight_bits, const Tensor& alpha, const Tensor& tap_sums,
              const std::optional<Tensor>& bias, const Tensor& scale, const Tensor& shift, StringHandle text,
              int64_t channels, std::vector<int64_t> kernel, std::vector<int64_t> stride,
              std::vector<int64_t> padding, std::vector<int64_t> dilation, int64_t groups) {
  const int64_t planes = bits_argument.dim() == 5 ? bits_argument.size(2) : 1;
  const Levels levels("conv2d", scale, shift, planes, text);
  expect_pair("conv2d", "kernel", kernel, 1);
  expect_pair("conv2d", "stride", stride, 1);
  expect_pair("conv2d", "padding", padding, 0);
  expect_pair("conv2d", "dilation", dilation, 1);
  STD_TORCH_CHECK(channels >= 0 && groups >= 1, "abc_k::conv2d: ", groups, " groups of ", channels,
                  " channels are not a shape");
  const int64_t words = ceil_div(channels, 64), taps = kernel[0] * kernel[1];
  const Tensor bits = expect("conv2d", "bits", bits_argument, ScalarType::Long, {-1, -1, -1, -1, groups * words});
  const Weights weights("conv2d", weight_bits, alpha, tap_sums, bias, groups, taps, channels);
  const Axis axis_h("height", bits.size(1), kernel[0], stride[0], dilation[0], padding[0]);
  const Axis axis_w("width", bits.size(3), kernel[1], stride[1], dilation[1], padding[1]);

  abcfx_bgemm_args args = {};
  args.class_h = axis_h.class_of.data();
  args.class_w = axis_w.class_of.data();
  args.images = bits.size(0);
  args.padded_h = bits.size(1);
  args.padded_w = bits.size(3);
  args.out_h = axis_h.out;
  args.out_w = axis_w.out;
  args.kernel_h = kernel[0];
  args.kernel_w = kernel[1];
  args.stride_h = stride[0];
  args.stride_w = stride[1];
  args.dilation_h = dilation[0];
  args.dilation_w = dilation[1];
  args.groups = groups;
  args.words = words;
  args.depth = taps * channels;
  abcfx_padding_args classes = {};
  classes.classes_h = axis_h.classes;
  classes.classes_w = axis_w.classes;
  classes.first_h = axis_h.first.data();
  classes.last_h = axis_h.last.data();
  classes.first_w = axis_w.first.data();
  classes.last_w = axis_w.last.data();
  return multiply("conv2d", args, classes, bits, weights, levels, channels,
                  torch::stable::new_empty(bits, {args.images, args.out_h, args.out_w, weights.outputs},
                                           ScalarType::Float));
}

}  // namespace abcfx
