#include "../cuda/hopper/hopper.h"
#include "cuda_ops.h"
#include "cuda_product.h"

namespace abcfx::cuda {
namespace {

/// Fewer rows than this leave most of a row tile of the sm_90a kernel empty.
constexpr int64_t HOPPER_ROWS = 64;

void run(Product& product, const Levels& levels, Tensor& dst) {
  if (product.rows() == 0 || product.outputs == 0) return;
  const Scope scope(dst);
  product.enqueue(levels, scope);
  product.args.dst = dst.mutable_data_ptr<float>();
  product.check(run_product(product.args));
}

}  // namespace

int run_product(const abcfx_cuda_bgemm_args& args) {
  if (args.images * args.out_h * args.out_w >= HOPPER_ROWS) {
    const int status = abcfx_hopper_bgemm(&args);
    if (status != ABCFX_UNSUPPORTED) return status;
  }
  return abcfx_cuda_bgemm(&args);
}

Tensor linear(const Tensor& bits, const Tensor& weight_bits, const Tensor& alpha, const Tensor& tap_sums,
              const std::optional<Tensor>& bias, const Tensor& scale, const Tensor& shift, StringHandle text,
              int64_t depth) {
  const Levels levels("linear", scale, shift, bits, planes_of(bits, 3, 0), text);
  Product product = Product::linear("linear", bits, weight_bits, alpha, tap_sums, bias, depth);
  Tensor dst = torch::stable::new_empty(bits, {product.rows(), product.outputs}, ScalarType::Float);
  run(product, levels, dst);
  return dst;
}

Tensor conv2d(const Tensor& bits, const Tensor& weight_bits, const Tensor& alpha, const Tensor& tap_sums,
              const std::optional<Tensor>& bias, const Tensor& scale, const Tensor& shift, StringHandle text,
              int64_t channels, std::vector<int64_t> kernel, std::vector<int64_t> stride,
              std::vector<int64_t> padding, std::vector<int64_t> dilation, int64_t groups) {
  const Levels levels("conv2d", scale, shift, bits, planes_of(bits, 5, 2), text);
  Product product = Product::conv2d("conv2d", bits, weight_bits, alpha, tap_sums, bias, channels, kernel, stride,
                                    padding, dilation, groups);
  const abcfx_cuda_bgemm_args& args = product.args;
  Tensor dst =
      torch::stable::new_empty(bits, {args.images, args.out_h, args.out_w, product.outputs}, ScalarType::Float);
  run(product, levels, dst);
  return dst;
}

}  // namespace abcfx::cuda
