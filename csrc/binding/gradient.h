#pragma once
#include "abcfx/positions.h"
#include "abcfx/round.h"
#include "check.h"

// round_gradient and pack_positions, up to the kernel: operands checked, results allocated, arguments filled in. The
// same on each device; `where` (OnCpu, cuda::OnDeviceOf) is what checks that a tensor is on it.
namespace abcfx {

/// grad f32 [n, C, H, W] or [n, C] of any strides; `args` wants only its seed.
struct Rounding {
  Tensor gain, inverse, seed, dst;
  abcfx_round_args args = {};
  bool image;

  template <class Where>
  Rounding(const Where& where, const Tensor& grad, const Tensor& gain_argument, const Tensor& inverse_argument,
           const Tensor& seed_argument, int64_t planes)
      : gain(gain_argument), inverse(inverse_argument), seed(seed_argument), dst(grad), image(grad.dim() == 4) {
    const char* op = "round_gradient";
    where.expect_here(op, "grad", grad);
    STD_TORCH_CHECK(grad.scalar_type() == ScalarType::Float && (grad.dim() == 2 || image), "abc_k::", op,
                    ": grad must be Float of 2 or 4 dimensions, got ",
                    torch::headeronly::toString(grad.scalar_type()), " of shape ", shape_text(grad));
    expect_range(op, "the number of planes", planes, 1, ABCFX_MAX_BASES);
    const int64_t n = grad.size(0), channels = grad.size(1);
    const bool shared = inverse_argument.numel() == 1;
    gain = where.expect(op, "gain", gain_argument, ScalarType::Float, {-1, channels});
    inverse = where.expect(op, "inverse", inverse_argument, ScalarType::Float, {shared ? 1 : n});
    seed = where.expect(op, "seed", seed_argument, ScalarType::Long, {1});
    const bool lines = !image && shared;  // rows with one step: pixels of one line
    args.src = grad.const_data_ptr<float>();
    args.gain = gain.const_data_ptr<float>();
    args.inverse = inverse.const_data_ptr<float>();
    args.inverse_step = shared ? 0 : 1;
    args.planes = planes;
    args.gains = gain.size(0);
    args.channels = channels;
    args.images = lines ? 1 : n;
    args.height = image ? grad.size(2) : 1;
    args.width = image ? grad.size(3) : lines ? n : 1;
    args.stride_n = lines ? 0 : grad.stride(0);
    args.stride_c = grad.stride(1);
    args.stride_h = image ? grad.stride(2) : 0;
    args.stride_w = image ? grad.stride(3) : lines ? grad.stride(0) : 0;
    const int64_t codes = args.gains * channels;
    dst = image ? new_tensor(grad, {n, args.height, args.width, codes}, ScalarType::BFloat16)
                : new_tensor(grad, {n, codes}, ScalarType::BFloat16);
    args.dst = (uint16_t*)dst.mutable_data_ptr();
  }

  /// bf16 [n, P * C, H, W], channels last in memory, or [n, P * C]
  Tensor codes() const {
    return image ? torch::stable::transpose(torch::stable::transpose(dst, 1, 3), 2, 3) : dst;
  }
};

/// bits int64 [n, H + 2ph, N, W + 2pw, words]; the layout of the result, and where it goes, is the device's.
struct Positions {
  Tensor bits;
  abcfx_positions_args args = {};
  int64_t columns, depth;

  template <class Where>
  Positions(const Where& where, const Tensor& bits_argument, int64_t channels, const std::vector<int64_t>& kernel,
            const std::vector<int64_t>& stride, const std::vector<int64_t>& dilation, const std::vector<int64_t>& out)
      : bits(bits_argument) {
    const char* op = "pack_positions";
    expect_pair(op, "kernel", kernel, 1);
    expect_pair(op, "stride", stride, 1);
    expect_pair(op, "dilation", dilation, 1);
    expect_pair(op, "out", out, 0);
    STD_TORCH_CHECK(channels >= 0, "abc_k::", op, ": channels must not be negative, got ", channels);
    bits = where.expect(op, "bits", bits_argument, ScalarType::Long, {-1, -1, -1, -1, ceil_div(channels, 64)});
    expect_range(op, "the number of planes", bits.size(2), 1, ABCFX_MAX_BASES);
    check_reach("height", bits.size(1), kernel[0], stride[0], dilation[0], out[0]);
    check_reach("width", bits.size(3), kernel[1], stride[1], dilation[1], out[1]);
    args.src = reinterpret_cast<const uint64_t*>(bits.const_data_ptr<int64_t>());
    args.images = bits.size(0);
    args.padded_h = bits.size(1);
    args.planes = bits.size(2);
    args.padded_w = bits.size(3);
    args.channels = channels;
    set_window(args, kernel, stride, dilation);
    args.out_h = out[0];
    args.out_w = out[1];
    columns = kernel[0] * kernel[1] * channels;
    depth = args.images * out[0] * out[1];
  }

 private:
  static void check_reach(const char* name, int64_t padded, int64_t kernel, int64_t stride, int64_t dilation,
                          int64_t out) {
    const int64_t reach = (std::max<int64_t>(out, 1) - 1) * stride + (kernel - 1) * dilation + 1;
    STD_TORCH_CHECK(padded >= reach, "abc_k::pack_positions: ", out, " output positions reach ", reach,
                    " pixels, but the padded ", name, " is ", padded);
  }
};

}  // namespace abcfx
