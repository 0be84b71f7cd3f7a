#pragma once
#include "abcfx/bgemm.h"
#include "abcfx/lut.h"
#include "abcfx/padding.h"
#include "levels.h"
#include "parallel.h"

// The binary products, ready to run: operands checked, geometry and base table made. What becomes of the f32 outputs is
// the business of cpu_gemm.cpp (a tensor) and cpu_emit.cpp (an epilogue, and planes for the next layer).
namespace abcfx {

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

/// Output positions along one axis, and the padding class of each.
struct Axis {
  int64_t out = 0, classes = 1;
  std::vector<int32_t> class_of, first, last;

  Axis() = default;

  Axis(const char* op, const char* name, int64_t padded, int64_t taps, int64_t stride, int64_t dilation, int64_t before) {
    const int64_t reach = dilation * (taps - 1) + 1;
    STD_TORCH_CHECK(padded >= 2 * before, "abc_k::", op, ": bits have padded ", name, " ", padded,
                    ", less than twice the padding ", before);
    STD_TORCH_CHECK(padded >= reach, "abc_k::", op, ": padded ", name, " ", padded, " is less than the kernel's reach ",
                    reach);
    out = (padded - reach) / stride + 1;
    class_of.resize(out);
    first.resize(out);
    last.resize(out);
    classes = abcfx_padding_classes(out, padded - 2 * before, taps, stride, dilation, before, class_of.data(),
                                    first.data(), last.data());
  }
};

/// A product over rows [0, rows) of output positions and all its output channels. Owns what its arguments point to.
class Product {
 public:
  abcfx_bgemm_args args = {};
  int64_t outputs;

  /// planes [N, rows, words] of a linear layer
  static Product linear(const char* op, const Tensor& bits_argument, const Tensor& weight_bits, const Tensor& alpha,
                        const Tensor& tap_sums, const std::optional<Tensor>& bias, const Levels& levels,
                        int64_t depth) {
    STD_TORCH_CHECK(depth >= 0, "abc_k::", op, ": depth must not be negative, got ", depth);
    const int64_t words = ceil_div(depth, 64);
    Tensor bits = expect(op, "bits", bits_argument, ScalarType::Long, {-1, -1, words});
    Product product(op, std::move(bits), Weights(op, weight_bits, alpha, tap_sums, bias, 1, 1, depth), depth);
    abcfx_bgemm_args& args = product.args;
    args.images = args.padded_h = args.out_h = args.groups = 1;
    args.kernel_h = args.kernel_w = args.stride_h = args.stride_w = args.dilation_h = args.dilation_w = 1;
    args.padded_w = args.out_w = product.bits_.size(1);
    args.words = words;
    args.depth = depth;
    const int32_t first = 0, last = 1;
    abcfx_padding_args padding = {};
    padding.classes_h = padding.classes_w = 1;
    padding.first_h = padding.first_w = &first;
    padding.last_h = padding.last_w = &last;
    product.finish(op, padding, levels);
    return product;
  }

  /// padded bit image [n, H+2ph, N, W+2pw, groups * words] of a convolution
  static Product conv2d(const char* op, const Tensor& bits_argument, const Tensor& weight_bits, const Tensor& alpha,
                        const Tensor& tap_sums, const std::optional<Tensor>& bias, const Levels& levels,
                        int64_t channels, const std::vector<int64_t>& kernel, const std::vector<int64_t>& stride,
                        const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation, int64_t groups) {
    expect_pair(op, "kernel", kernel, 1);
    expect_pair(op, "stride", stride, 1);
    expect_pair(op, "padding", padding, 0);
    expect_pair(op, "dilation", dilation, 1);
    STD_TORCH_CHECK(channels >= 0 && groups >= 1, "abc_k::", op, ": ", groups, " groups of ", channels,
                    " channels are not a shape");
    const int64_t words = ceil_div(channels, 64), taps = kernel[0] * kernel[1];
    const Tensor bits = expect(op, "bits", bits_argument, ScalarType::Long, {-1, -1, -1, -1, groups * words});
    Product product(op, bits, Weights(op, weight_bits, alpha, tap_sums, bias, groups, taps, channels), channels);
    product.axis_h_ = Axis(op, "height", bits.size(1), kernel[0], stride[0], dilation[0], padding[0]);
    product.axis_w_ = Axis(op, "width", bits.size(3), kernel[1], stride[1], dilation[1], padding[1]);
    const Axis &axis_h = product.axis_h_, &axis_w = product.axis_w_;
    abcfx_bgemm_args& args = product.args;
    args.class_h = axis_h.class_of.data();
    args.class_w = axis_w.class_of.data();
    args.images = bits.size(0);
    args.padded_h = bits.size(1);
    args.padded_w = bits.size(3);
    args.out_h = axis_h.out;
    args.out_w = axis_w.out;
    set_window(args, kernel, stride, dilation);
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
    product.finish(op, classes, levels);
    return product;
  }

  Product(Product&&) = default;  // vectors keep their memory, so that the pointers in args stay right

  /// Whether a call of the kernel wants many rows (abcfx_lut_tiled).
  bool tiled() const { return weights_.lookup && abcfx_lut_tiled(); }
  int64_t rows() const { return args.images * args.out_h * args.out_w; }

  /// All outputs, on all threads: dst f32[rows][outputs].
  void run(float* dst) const {
    abcfx_bgemm_args whole = args;
    whole.dst = dst;
    const int64_t threads = torch::stable::get_num_threads();
    check(weights_.lookup ? run_cut(lookup(whole), cut_of(lookup(whole), threads))
                          : run_cut(whole, cut_of(whole, threads)));
  }

  /// Rows [begin, end), all output channels, on this thread; `dst` is where row 0 would be. Returns a status.
  int run_rows(int64_t begin, int64_t end, float* dst) const {
    abcfx_bgemm_args part = args;
    part.dst = dst;
    return weights_.lookup ? abcfx::run_rows(lookup(part), cut_of(lookup(part), 1), begin, end)
                           : abcfx::run_rows(part, cut_of(part, 1), begin, end);
  }

  void check(int status) const {
    STD_TORCH_CHECK(status == ABCFX_OK, "abc_k::", op_, ": the kernel refused its arguments, status ", status);
  }

 private:
  const char* op_;
  Tensor bits_;
  Weights weights_;
  int64_t channels_;
  Axis axis_h_, axis_w_;
  std::vector<float> base_, beta_;

  Product(const char* op, Tensor bits, Weights weights, int64_t channels)
      : outputs(weights.outputs), op_(op), bits_(std::move(bits)), weights_(std::move(weights)), channels_(channels) {}

  abcfx_lut_args lookup(const abcfx_bgemm_args& product) const {
    return {product, weights_.bits.const_data_ptr<uint8_t>(), channels_, nullptr};
  }

  /// The base table, and everything that is the same for a linear layer and a convolution.
  void finish(const char* op, abcfx_padding_args& padding, const Levels& levels) {
    base_.resize(padding.classes_h * padding.classes_w * outputs);
    padding.tap_sums = weights_.tap_sums.const_data_ptr<float>();
    padding.bias = weights_.bias ? weights_.bias->const_data_ptr<float>() : nullptr;
    padding.base = base_.data();
    padding.cols = outputs;
    padding.kernel_h = args.kernel_h;
    padding.kernel_w = args.kernel_w;
    padding.constant = levels.constant;
    padding.beta_sum = levels.beta_sum;
    check(abcfx_padding_base(&padding));
    args.a = reinterpret_cast<const uint64_t*>(bits_.const_data_ptr<int64_t>());
    if (!weights_.lookup) args.w = reinterpret_cast<const uint64_t*>(weights_.bits.const_data_ptr<int64_t>());
    args.alpha = weights_.alpha.const_data_ptr<float>();
    args.base = base_.data();
    args.classes_w = padding.classes_w;
    args.weight_bases = weights_.bases;
    args.activation_bases = levels.planes;
    args.cols = weights_.cols;
    beta_.assign(levels.beta, levels.beta + levels.planes);
    args.beta = beta_.data();
  }
};

}  // namespace abcfx
