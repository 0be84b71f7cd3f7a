#include <cfloat>

#include "cuda_ops.h"
#include "cuda_product.h"

// A product and what follows it in one kernel (abcfx_cuda_bgemm_emit): residual, PReLU and clip on its f32 values, which
// are stored only if they are wanted; then the affine and clip in front of the next layer, and its planes.
namespace abcfx::cuda {
namespace {

float limit(double value) {
  if (value <= -FLT_MAX) return -std::numeric_limits<float>::infinity();
  return value >= FLT_MAX ? std::numeric_limits<float>::infinity() : (float)value;
}

/// The arguments of the ops after those of the product, checked.
struct Epilogue {
  std::optional<Tensor> residual, slope;
  ChannelAffine affine;
  std::optional<Levels> next;
  float low, high;
  abcfx_cuda_emit_args args = {};

  Epilogue(const char* op, const Product& product, const std::optional<Tensor>& residual_argument,
           const std::optional<Tensor>& slope_argument, double low_argument, double high_argument,
           const std::optional<Tensor>& gain, const std::optional<Tensor>& offset, double next_low, double next_high,
           const std::optional<Tensor>& scale, const std::optional<Tensor>& shift, int64_t planes, StringHandle text)
      : affine(OnDeviceOf{product.bits()}, op, gain, offset, product.outputs),
        low(limit(low_argument)),
        high(limit(high_argument)) {
    const abcfx_cuda_bgemm_args& sizes = product.args;
    const Tensor& like = product.bits();
    if (has_next(op, scale, shift, planes)) {
      next.emplace(op, *scale, *shift, like, planes, text);
    } else {
      const Text owner(text);
    }
    if (residual_argument) {
      residual = residual_argument->dim() == 2
                     ? expect(op, "residual", *residual_argument, like, ScalarType::Float,
                              {product.rows(), product.outputs})
                     : expect(op, "residual", *residual_argument, like, ScalarType::Float,
                              {sizes.images, sizes.out_h, sizes.out_w, product.outputs});
      args.residual = residual->const_data_ptr<float>();
    }
    if (slope_argument) {
      slope = expect(op, "slope", *slope_argument, like, ScalarType::Float, {product.outputs});
      args.slope = slope->const_data_ptr<float>();
    }
    args.gain = affine.gain_data();
    args.offset = affine.offset_data();
    args.low = limit(next_low);
    args.high = limit(next_high);
    if (!next) return;
    args.shift = next->shift.const_data_ptr<float>();
    args.levels = next->kind;
    args.planes = next->planes;
    args.groups = 1;
  }
};

/// y and planes are as large as what is wanted of them.
void run(Product& product, const Levels& levels, Epilogue& epilogue, Tensor& y, Tensor& planes, bool keep) {
  if (product.rows() == 0 || product.outputs == 0 || !(keep || epilogue.next)) return;
  const Scope scope(y);
  const bool divides = epilogue.next && epilogue.next->kind == ABCFX_CODED;
  product.enqueue(levels, scope, divides ? epilogue.next->scale.const_data_ptr<float>() : nullptr);
  if (keep) product.args.dst = y.mutable_data_ptr<float>();
  product.args.low = epilogue.low;
  product.args.high = epilogue.high;
  if (epilogue.next) {
    epilogue.args.dst = reinterpret_cast<uint64_t*>(planes.mutable_data_ptr<int64_t>());
    epilogue.args.inverse = product.inverse;
  } else if (!epilogue.residual && !epilogue.slope) {
    product.check(run_product(product.args));
    return;
  }
  product.check(abcfx_cuda_bgemm_emit(&product.args, &epilogue.args));
}

}  // namespace

std::tuple<Tensor, Tensor> linear_emit(const Tensor& bits, const Tensor& weight_bits, const Tensor& alpha,
                                       const Tensor& tap_sums, const std::optional<Tensor>& bias, const Tensor& scale,
                                       const Tensor& shift, StringHandle text, int64_t depth,
                                       const std::optional<Tensor>& residual, const std::optional<Tensor>& slope,
                                       double low, double high, const std::optional<Tensor>& gain,
                                       const std::optional<Tensor>& offset, double next_low, double next_high,
                                       const std::optional<Tensor>& next_scale,
                                       const std::optional<Tensor>& next_shift, int64_t next_planes,
                                       StringHandle next_text, bool keep) {
  const char* op = "linear_emit";
  const Levels levels(op, scale, shift, bits, planes_of(bits, 3, 0), text);
  Product product = Product::linear(op, bits, weight_bits, alpha, tap_sums, bias, depth);
  Epilogue epilogue(op, product, residual, slope, low, high, gain, offset, next_low, next_high, next_scale, next_shift,
                    next_planes, next_text);
  const int64_t rows = product.rows(), outputs = product.outputs;
  Tensor y = torch::stable::new_empty(bits, {keep ? rows : 0, outputs}, ScalarType::Float);
  Tensor planes = epilogue.next
                      ? torch::stable::new_empty(bits, {next_planes, rows, words_of(outputs)}, ScalarType::Long)
                      : torch::stable::new_empty(bits, {0, 0, 0}, ScalarType::Long);
  run(product, levels, epilogue, y, planes, keep);
  return {y, planes};
}

std::tuple<Tensor, Tensor> conv2d_emit(
    const Tensor& bits, const Tensor& weight_bits, const Tensor& alpha, const Tensor& tap_sums,
    const std::optional<Tensor>& bias, const Tensor& scale, const Tensor& shift, StringHandle text, int64_t channels,
    std::vector<int64_t> kernel, std::vector<int64_t> stride, std::vector<int64_t> padding,
    std::vector<int64_t> dilation, int64_t groups, const std::optional<Tensor>& residual,
    const std::optional<Tensor>& slope, double low, double high, const std::optional<Tensor>& gain,
    const std::optional<Tensor>& offset, double next_low, double next_high, const std::optional<Tensor>& next_scale,
    const std::optional<Tensor>& next_shift, int64_t next_planes, StringHandle next_text, int64_t next_groups,
    std::vector<int64_t> next_padding, bool keep) {
  const char* op = "conv2d_emit";
  const Levels levels(op, scale, shift, bits, planes_of(bits, 5, 2), text);
  Product product = Product::conv2d(op, bits, weight_bits, alpha, tap_sums, bias, channels, kernel, stride, padding,
                                    dilation, groups);
  Epilogue epilogue(op, product, residual, slope, low, high, gain, offset, next_low, next_high, next_scale, next_shift,
                    next_planes, next_text);
  const abcfx_cuda_bgemm_args& args = product.args;
  const int64_t outputs = product.outputs;
  Tensor y =
      torch::stable::new_empty(bits, {keep ? args.images : 0, args.out_h, args.out_w, outputs}, ScalarType::Float);
  Tensor planes = torch::stable::new_empty(bits, {0, 0, 0, 0, 0}, ScalarType::Long);
  if (epilogue.next) {
    planes = new_bit_image(op, bits, next_planes, args.images, outputs, args.out_h, args.out_w, next_groups,
                           next_padding);
    epilogue.args.groups = next_groups;
    epilogue.args.top = epilogue.args.bottom = next_padding[0];
    epilogue.args.left = epilogue.args.right = next_padding[1];
  }
  run(product, levels, epilogue, y, planes, keep);
  return {y, planes};
}

}  // namespace abcfx::cuda
