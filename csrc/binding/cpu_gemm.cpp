#include "ops.h"
#include "product.h"

namespace abcfx {

Tensor linear(const Tensor& bits, const Tensor& weight_bits, const Tensor& alpha, const Tensor& tap_sums,
              const std::optional<Tensor>& bias, const Tensor& scale, const Tensor& shift, StringHandle text,
              int64_t depth) {
  const Levels levels("linear", scale, shift, bits.dim() == 3 ? bits.size(0) : 1, text);
  const Product product = Product::linear("linear", bits, weight_bits, alpha, tap_sums, bias, levels, depth);
  Tensor dst = new_tensor(bits, {product.rows(), product.outputs}, ScalarType::Float);
  product.run(dst.mutable_data_ptr<float>());
  return dst;
}

Tensor conv2d(const Tensor& bits, const Tensor& weight_bits, const Tensor& alpha, const Tensor& tap_sums,
              const std::optional<Tensor>& bias, const Tensor& scale, const Tensor& shift, StringHandle text,
              int64_t channels, std::vector<int64_t> kernel, std::vector<int64_t> stride,
              std::vector<int64_t> padding, std::vector<int64_t> dilation, int64_t groups) {
  const Levels levels("conv2d", scale, shift, bits.dim() == 5 ? bits.size(2) : 1, text);
  const Product product = Product::conv2d("conv2d", bits, weight_bits, alpha, tap_sums, bias, levels, channels, kernel,
                                          stride, padding, dilation, groups);
  const abcfx_bgemm_args& args = product.args;
  Tensor dst = new_tensor(bits, {args.images, args.out_h, args.out_w, product.outputs},
                                        ScalarType::Float);
  product.run(dst.mutable_data_ptr<float>());
  return dst;
}

}  // namespace abcfx
