#include <limits>

#include "../cuda/hopper/hopper.h"
#include "abcfx/cuda_prepare.h"
#include "abcfx/padding.h"
#include "cuda_ops.h"

// A product is four launches after the pack: what it reads besides planes (cuda_prepare.h), popcounts of the planes,
// their sums over the window, and the product itself. None of them waits for the host.
namespace abcfx::cuda {
namespace {

/// Fewer rows than this leave most of a row tile of the sm_90a kernel empty.
constexpr int64_t HOPPER_ROWS = 64;

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
int64_t positions(const char* op, const char* name, int64_t padded, int64_t taps, int64_t stride, int64_t dilation,
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

/// The kernel for this device and shape: the asynchronous one of sm_90a where it applies, else the general one.
int run_product(const abcfx_cuda_bgemm_args& args) {
  if (args.images * args.out_h * args.out_w >= HOPPER_ROWS) {
    const int status = abcfx_hopper_bgemm(&args);
    if (status != ABCFX_UNSUPPORTED) return status;
  }
  return abcfx_cuda_bgemm(&args);
}

/// What linear and conv2d have in common once the geometry is in `args` and `prepare`.
void multiply(const char* op, abcfx_cuda_bgemm_args& args, abcfx_cuda_prepare_args& prepare, const Tensor& bits,
              const Weights& weights, const Levels& levels, Tensor& dst) {
  const int64_t rows = args.images * args.out_h * args.out_w, outputs = weights.outputs;
  if (rows == 0 || outputs == 0) return;
  const int64_t counted = args.images * args.padded_h * levels.planes * args.padded_w * args.groups;
  Arena arena;
  const int64_t beta = arena.add(levels.planes), alpha_sum = arena.add(outputs), column_base = arena.add(outputs),
                base = arena.add(prepare.classes_h * prepare.classes_w * outputs), class_h = arena.add(args.out_h),
                class_w = arena.add(args.out_w), counts = arena.add(counted), row_sum = arena.add(rows * args.groups);
  const Scope scope(bits);
  arena.allocate(bits);

  prepare.scale = levels.scale.const_data_ptr<float>();
  prepare.shift = levels.shift.const_data_ptr<float>();
  prepare.alpha = weights.alpha.const_data_ptr<float>();
  prepare.tap_sums = weights.tap_sums.const_data_ptr<float>();
  prepare.bias = weights.bias ? weights.bias->const_data_ptr<float>() : nullptr;
  prepare.beta = arena.at<float>(beta);
  prepare.alpha_sum = arena.at<float>(alpha_sum);
  prepare.column_base = arena.at<float>(column_base);
  prepare.base = arena.at<float>(base);
  prepare.class_h = arena.at<int32_t>(class_h);
  prepare.class_w = arena.at<int32_t>(class_w);
  prepare.stream = scope.stream;
  prepare.levels = levels.kind;
  prepare.planes = levels.planes;
  prepare.weight_bases = weights.bases;
  prepare.outputs = outputs;
  prepare.kernel_h = args.kernel_h;
  prepare.kernel_w = args.kernel_w;
  prepare.out_h = args.out_h;
  prepare.out_w = args.out_w;

  args.a = reinterpret_cast<const uint64_t*>(bits.const_data_ptr<int64_t>());
  args.w = reinterpret_cast<const uint64_t*>(weights.bits.const_data_ptr<int64_t>());
  args.alpha = prepare.alpha;
  args.beta = prepare.beta;
  args.alpha_sum = prepare.alpha_sum;
  args.row_sum = arena.at<float>(row_sum);
  args.column_base = prepare.column_base;
  args.base = prepare.base;
  if (prepare.classes_h * prepare.classes_w > 1) {
    args.class_h = prepare.class_h;
    args.class_w = prepare.class_w;
  }
  args.dst = dst.mutable_data_ptr<float>();
  args.stream = scope.stream;
  args.low = -std::numeric_limits<float>::infinity();
  args.high = std::numeric_limits<float>::infinity();
  args.dst_type = ABCFX_F32;
  args.classes_w = prepare.classes_w;
  args.weight_bases = weights.bases;
  args.activation_bases = levels.planes;
  args.cols = outputs / args.groups;

  check(op, abcfx_cuda_prepare(&prepare));
  check(op, abcfx_cuda_count(args.a, arena.at<int32_t>(counts), counted, args.words, scope.stream));
  check(op, abcfx_cuda_row_sums(&args, arena.at<int32_t>(counts), arena.at<float>(row_sum)));
  check(op, run_product(args));
}

}  // namespace

Tensor linear(const Tensor& bits_argument, const Tensor& weight_bits, const Tensor& alpha, const Tensor& tap_sums,
              const std::optional<Tensor>& bias, const Tensor& scale, const Tensor& shift, StringHandle text,
              int64_t depth) {
  const char* op = "linear";
  const Levels levels(op, scale, shift, bits_argument, bits_argument.dim() == 3 ? bits_argument.size(0) : 1, text);
  STD_TORCH_CHECK(depth >= 1, "abc_k::", op, ": depth must be at least 1, got ", depth);
  const int64_t words = words_of(depth);
  const Tensor bits = expect(op, "bits", bits_argument, bits_argument, ScalarType::Long, {-1, -1, words});
  const Weights weights(op, bits, weight_bits, alpha, tap_sums, bias, 1, 1, depth);
  const int64_t rows = bits.size(1);
  abcfx_cuda_bgemm_args args = {};
  args.images = args.padded_h = args.out_h = args.groups = 1;
  args.kernel_h = args.kernel_w = args.stride_h = args.stride_w = args.dilation_h = args.dilation_w = 1;
  args.padded_w = args.out_w = rows;
  args.words = words;
  args.depth = depth;
  abcfx_cuda_prepare_args prepare = {};
  prepare.classes_h = prepare.classes_w = 1;
  prepare.last_h[0] = prepare.last_w[0] = 1;
  prepare.size_h = 1;
  prepare.size_w = rows;
  prepare.stride_h = prepare.stride_w = prepare.dilation_h = prepare.dilation_w = 1;
  Tensor dst = torch::stable::new_empty(bits, {rows, weights.outputs}, ScalarType::Float);
  multiply(op, args, prepare, bits, weights, levels, dst);
  return dst;
}

Tensor conv2d(const Tensor& bits_argument, const Tensor& weight_bits, const Tensor& alpha, const Tensor& tap_sums,
              const std::optional<Tensor>& bias, const Tensor& scale, const Tensor& shift, StringHandle text,
              int64_t channels, std::vector<int64_t> kernel, std::vector<int64_t> stride,
              std::vector<int64_t> padding, std::vector<int64_t> dilation, int64_t groups) {
  const char* op = "conv2d";
  const Levels levels(op, scale, shift, bits_argument, bits_argument.dim() == 5 ? bits_argument.size(2) : 1, text);
  expect_pair(op, "kernel", kernel, 1);
  expect_pair(op, "stride", stride, 1);
  expect_pair(op, "padding", padding, 0);
  expect_pair(op, "dilation", dilation, 1);
  STD_TORCH_CHECK(channels >= 1 && groups >= 1, "abc_k::", op, ": ", groups, " groups of ", channels,
                  " channels are not a shape");
  const int64_t words = words_of(channels), taps = kernel[0] * kernel[1];
  const Tensor bits =
      expect(op, "bits", bits_argument, bits_argument, ScalarType::Long, {-1, -1, -1, -1, groups * words});
  const Weights weights(op, bits, weight_bits, alpha, tap_sums, bias, groups, taps, channels);
  abcfx_cuda_prepare_args prepare = {};
  abcfx_cuda_bgemm_args args = {};
  args.images = bits.size(0);
  args.padded_h = bits.size(1);
  args.padded_w = bits.size(3);
  args.out_h = positions(op, "height", args.padded_h, kernel[0], stride[0], dilation[0], padding[0], prepare.first_h,
                         prepare.last_h, &prepare.classes_h);
  args.out_w = positions(op, "width", args.padded_w, kernel[1], stride[1], dilation[1], padding[1], prepare.first_w,
                         prepare.last_w, &prepare.classes_w);
  prepare.before_h = padding[0];
  prepare.before_w = padding[1];
  prepare.size_h = args.padded_h - 2 * padding[0];
  prepare.size_w = args.padded_w - 2 * padding[1];
  args.kernel_h = kernel[0];
  args.kernel_w = kernel[1];
  args.stride_h = prepare.stride_h = stride[0];
  args.stride_w = prepare.stride_w = stride[1];
  args.dilation_h = prepare.dilation_h = dilation[0];
  args.dilation_w = prepare.dilation_w = dilation[1];
  args.groups = groups;
  args.words = words;
  args.depth = taps * channels;
  Tensor dst =
      torch::stable::new_empty(bits, {args.images, args.out_h, args.out_w, weights.outputs}, ScalarType::Float);
  multiply(op, args, prepare, bits, weights, levels, dst);
  return dst;
}

}  // namespace abcfx::cuda
