#pragma once
#include <limits>

#include "abcfx/cuda_prepare.h"
#include "abcfx/padding.h"
#include "cuda_check.h"

// The binary products, ready to run: operands checked, geometry filled in, and what the kernel reads besides planes
// enqueued (cuda_prepare.h, popcounts of the planes, their sums over the window): three launches, none of which waits for
// the host. The product itself is the business of cuda_gemm.cpp, and of cuda_emit.cpp with what follows it.
namespace abcfx::cuda {

/// Weight operands, checked against each other.
struct Weights {
  Tensor bits, alpha, tap_sums;
  std::optional<Tensor> bias;
  int64_t bases, outputs;

  Weights(const char* op, const Tensor& like, const Tensor& weight_bits, const Tensor& alpha_argument,
          const Tensor& tap_sums_argument, const std::optional<Tensor>& bias_argument, int64_t groups, int64_t taps,
          int64_t channels)
      : bits(weight_bits), alpha(alpha_argument), tap_sums(tap_sums_argument) {
    alpha = expect(op, "alpha", alpha_argument, like, ScalarType::Float, {-1, -1});
    bases = alpha.size(0);
    outputs = alpha.size(1);
    expect_range(op, "the number of weight bases", bases, 1, ABCFX_MAX_BASES);
    STD_TORCH_CHECK(groups >= 1 && outputs % groups == 0, "abc_k::", op, ": ", outputs,
                    " output channels cannot be split into ", groups, " groups");
    bits = expect(op, "weight_bits", weight_bits, like, ScalarType::Long,
                  {groups, bases, outputs / groups, taps * words_of(channels)});
    tap_sums = expect(op, "tap_sums", tap_sums_argument, like, ScalarType::Float, {outputs, taps});
    if (bias_argument) bias = expect(op, "bias", *bias_argument, like, ScalarType::Float, {outputs});
  }
};

/// Output positions along one axis; its padding classes go into the arguments of `prepare`.
inline int64_t positions(const char* op, const char* name, int64_t padded, int64_t taps, int64_t stride, int64_t dilation,
                  int64_t before, uint8_t* first_taps, uint8_t* last_taps, int64_t* classes) {
  const int64_t reach = dilation * (taps - 1) + 1;
  STD_TORCH_CHECK(padded >= 2 * before, "abc_k::", op, ": bits have padded ", name, " ", padded,
                  ", less than twice the padding ", before);
  STD_TORCH_CHECK(padded >= reach, "abc_k::", op, ": padded ", name, " ", padded, " is less than the kernel's reach ",
                  reach);
  STD_TORCH_CHECK(2 * taps <= ABCFX_CUDA_MAX_CLASSES, "abc_k::", op, ": a window of ", taps, " taps along its ", name,
                  " is beyond the CUDA kernels, which take ", ABCFX_CUDA_MAX_CLASSES / 2, "; use the dense form");
  const int64_t out = (padded - reach) / stride + 1;
  std::vector<int32_t> class_of(out), first(out), last(out);
  *classes = abcfx_padding_classes(out, padded - 2 * before, taps, stride, dilation, before, class_of.data(),
                                   first.data(), last.data());
  STD_TORCH_CHECK(*classes <= ABCFX_CUDA_MAX_CLASSES, "abc_k::", op, ": ", *classes, " padding classes along the ",
                  name, "; use the dense form");
  std::copy_n(first.begin(), *classes, first_taps);
  std::copy_n(last.begin(), *classes, last_taps);
  return out;
}

/// Pieces of one allocation, each aligned to 16 bytes.
class Arena {
 public:
  int64_t add(int64_t values) { return std::exchange(size_, size_ + (values + 3) / 4 * 4); }
  void allocate(const Tensor& like) { memory_ = torch::stable::new_empty(like, {size_}, ScalarType::Int); }
  template <class T>
  T* at(int64_t place) {
    static_assert(sizeof(T) == 4);
    return reinterpret_cast<T*>(memory_->mutable_data_ptr<int32_t>() + place);
  }

 private:
  int64_t size_ = 0;
  std::optional<Tensor> memory_;
};

/// A product over rows of output positions and all its output channels. Owns what its arguments point to.
class Product {
 public:
  abcfx_cuda_bgemm_args args = {};
  int64_t outputs;
  const float* inverse = nullptr;  ///< 1 / next_scale, once `enqueue` got one

  /// planes [N, rows, words] of a linear layer
  static Product linear(const char* op, const Tensor& bits_argument, const Tensor& weight_bits, const Tensor& alpha,
                        const Tensor& tap_sums, const std::optional<Tensor>& bias, int64_t depth) {
    STD_TORCH_CHECK(depth >= 1, "abc_k::", op, ": depth must be at least 1, got ", depth);
    const int64_t words = words_of(depth);
    const Tensor bits = expect(op, "bits", bits_argument, bits_argument, ScalarType::Long, {-1, -1, words});
    Product product(op, bits, Weights(op, bits, weight_bits, alpha, tap_sums, bias, 1, 1, depth));
    abcfx_cuda_bgemm_args& args = product.args;
    abcfx_cuda_prepare_args& prepare = product.prepare_;
    args.images = args.padded_h = args.out_h = args.groups = 1;
    args.kernel_h = args.kernel_w = args.stride_h = args.stride_w = args.dilation_h = args.dilation_w = 1;
    args.padded_w = args.out_w = bits.size(1);
    args.words = words;
    args.depth = depth;
    prepare.classes_h = prepare.classes_w = 1;
    prepare.last_h[0] = prepare.last_w[0] = 1;
    prepare.size_h = 1;
    prepare.size_w = args.out_w;
    prepare.kernel_h = prepare.kernel_w = 1;
    prepare.stride_h = prepare.stride_w = prepare.dilation_h = prepare.dilation_w = 1;
    return product;
  }

  /// padded bit image [n, H+2ph, N, W+2pw, groups * words] of a convolution
  static Product conv2d(const char* op, const Tensor& bits_argument, const Tensor& weight_bits, const Tensor& alpha,
                        const Tensor& tap_sums, const std::optional<Tensor>& bias, int64_t channels,
                        const std::vector<int64_t>& kernel, const std::vector<int64_t>& stride,
                        const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation, int64_t groups) {
    expect_pair(op, "kernel", kernel, 1);
    expect_pair(op, "stride", stride, 1);
    expect_pair(op, "padding", padding, 0);
    expect_pair(op, "dilation", dilation, 1);
    STD_TORCH_CHECK(channels >= 1 && groups >= 1, "abc_k::", op, ": ", groups, " groups of ", channels,
                    " channels are not a shape");
    const int64_t words = words_of(channels), taps = kernel[0] * kernel[1];
    const Tensor bits =
        expect(op, "bits", bits_argument, bits_argument, ScalarType::Long, {-1, -1, -1, -1, groups * words});
    Product product(op, bits, Weights(op, bits, weight_bits, alpha, tap_sums, bias, groups, taps, channels));
    abcfx_cuda_bgemm_args& args = product.args;
    abcfx_cuda_prepare_args& prepare = product.prepare_;
    args.images = bits.size(0);
    args.padded_h = bits.size(1);
    args.padded_w = bits.size(3);
    args.out_h = positions(op, "height", args.padded_h, kernel[0], stride[0], dilation[0], padding[0],
                           prepare.first_h, prepare.last_h, &prepare.classes_h);
    args.out_w = positions(op, "width", args.padded_w, kernel[1], stride[1], dilation[1], padding[1], prepare.first_w,
                           prepare.last_w, &prepare.classes_w);
    prepare.before_h = padding[0];
    prepare.before_w = padding[1];
    prepare.size_h = args.padded_h - 2 * padding[0];
    prepare.size_w = args.padded_w - 2 * padding[1];
    set_window(args, kernel, stride, dilation);
    set_window(prepare, kernel, stride, dilation);
    args.groups = groups;
    args.words = words;
    args.depth = taps * channels;
    return product;
  }

  int64_t rows() const { return args.images * args.out_h * args.out_w; }
  const Tensor& bits() const { return bits_; }

  /// Enqueues all that comes before the product; `args` then lacks a dst, of f32, and may get a clip. With the scale of
  /// coded levels that the product emits, its inverse is made too.
  void enqueue(const Levels& levels, const Scope& scope, const float* next_scale = nullptr) {
    const int64_t counted = args.images * args.padded_h * levels.planes * args.padded_w * args.groups;
    const int64_t beta = arena_.add(levels.planes), alpha_sum = arena_.add(outputs), column_base = arena_.add(outputs),
                  base = arena_.add(prepare_.classes_h * prepare_.classes_w * outputs),
                  class_h = arena_.add(args.out_h), class_w = arena_.add(args.out_w), counts = arena_.add(counted),
                  row_sum = arena_.add(rows() * args.groups), reciprocal = arena_.add(1);
    arena_.allocate(bits_);
    prepare_.scale = levels.scale.const_data_ptr<float>();
    prepare_.shift = levels.shift.const_data_ptr<float>();
    prepare_.alpha = weights_.alpha.const_data_ptr<float>();
    prepare_.tap_sums = weights_.tap_sums.const_data_ptr<float>();
    prepare_.bias = weights_.bias ? weights_.bias->const_data_ptr<float>() : nullptr;
    prepare_.next_scale = next_scale;
    inverse = prepare_.inverse = next_scale ? arena_.at<float>(reciprocal) : nullptr;
    prepare_.beta = arena_.at<float>(beta);
    prepare_.alpha_sum = arena_.at<float>(alpha_sum);
    prepare_.column_base = arena_.at<float>(column_base);
    prepare_.base = arena_.at<float>(base);
    prepare_.class_h = arena_.at<int32_t>(class_h);
    prepare_.class_w = arena_.at<int32_t>(class_w);
    prepare_.stream = scope.stream;
    prepare_.levels = levels.kind;
    prepare_.planes = levels.planes;
    prepare_.weight_bases = weights_.bases;
    prepare_.outputs = outputs;
    prepare_.out_h = args.out_h;
    prepare_.out_w = args.out_w;
    fill(levels.planes, scope.stream);
    args.row_sum = arena_.at<float>(row_sum);
    cuda::check(op_, abcfx_cuda_prepare(&prepare_));
    cuda::check(op_, abcfx_cuda_count(args.a, arena_.at<int32_t>(counts), counted, args.words, scope.stream));
    cuda::check(op_, abcfx_cuda_row_sums(&args, arena_.at<int32_t>(counts), arena_.at<float>(row_sum)));
  }

  void check(int status) const { cuda::check(op_, status); }

 private:
  const char* op_;
  Tensor bits_;
  Weights weights_;
  abcfx_cuda_prepare_args prepare_ = {};
  Arena arena_;

  Product(const char* op, const Tensor& bits, Weights weights)
      : outputs(weights.outputs), op_(op), bits_(bits), weights_(std::move(weights)) {}

  void fill(int64_t planes, void* stream) {
    args.a = reinterpret_cast<const uint64_t*>(bits_.const_data_ptr<int64_t>());
    args.w = reinterpret_cast<const uint64_t*>(weights_.bits.const_data_ptr<int64_t>());
    args.alpha = prepare_.alpha;
    args.beta = prepare_.beta;
    args.alpha_sum = prepare_.alpha_sum;
    args.column_base = prepare_.column_base;
    args.base = prepare_.base;
    if (prepare_.classes_h * prepare_.classes_w > 1) {
      args.class_h = prepare_.class_h;
      args.class_w = prepare_.class_w;
    }
    args.stream = stream;
    args.low = -std::numeric_limits<float>::infinity();
    args.high = std::numeric_limits<float>::infinity();
    args.dst_type = ABCFX_F32;
    args.classes_w = prepare_.classes_w;
    args.weight_bases = weights_.bases;
    args.activation_bases = planes;
    args.cols = outputs / args.groups;
  }
};

/// Planes of the input of a product: dimension `axis` of its `dims`; 1 where it has others, which is refused later.
inline int64_t planes_of(const Tensor& bits, int64_t dims, int64_t axis) {
  return bits.dim() == dims ? bits.size(axis) : 1;
}

/// The kernel for this device and shape: the asynchronous one of sm_90a where it applies, else the general one.
int run_product(const abcfx_cuda_bgemm_args& args);

}  // namespace abcfx::cuda
