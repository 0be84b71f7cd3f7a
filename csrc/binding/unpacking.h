#pragma once
#include "abcfx/unpack.h"
#include "check.h"

// unpack_rows and unpack_image up to the kernel, as in gradient.h.
namespace abcfx {

struct Unpacking {
  Tensor bits, dst;
  abcfx_unpack_args args = {};

  /// bits int64 [N, rows, words] -> f32 [rows, depth]
  template <class Where>
  static Unpacking rows(const Where& where, const Tensor& bits_argument, int64_t depth) {
    const char* op = "unpack_rows";
    expect_range(op, "depth", depth, 0, INT64_MAX - 63);
    Unpacking made(where.expect(op, "bits", bits_argument, ScalarType::Long, {-1, -1, ceil_div(depth, 64)}));
    made.args.planes = made.bits.size(0);
    made.args.images = made.args.height = made.args.groups = 1;
    made.args.channels = depth;
    made.args.width = made.bits.size(1);
    made.dst = new_tensor(made.bits, {made.args.width, depth}, ScalarType::Float);
    return made;
  }

  /// bits int64 [n, H + 2ph, N, W + 2pw, groups * words] -> f32 [n, H, W, groups * channels]
  template <class Where>
  static Unpacking image(const Where& where, const Tensor& bits_argument, int64_t channels, int64_t groups,
                         const std::vector<int64_t>& padding) {
    const char* op = "unpack_image";
    expect_range(op, "channels", channels, 0, INT64_MAX - 63);
    expect_range(op, "groups", groups, 1, INT64_MAX);
    expect_pair(op, "padding", padding, 0);
    Unpacking made(where.expect(op, "bits", bits_argument, ScalarType::Long,
                                {-1, -1, -1, -1, groups * ceil_div(channels, 64)}));
    const Tensor& bits = made.bits;
    const int64_t height = bits.size(1) - 2 * padding[0], width = bits.size(3) - 2 * padding[1];
    STD_TORCH_CHECK(height >= 0 && width >= 0, "abc_k::", op, ": bits of ", bits.size(1), " x ", bits.size(3),
                    " pixels cannot have a padding of ", padding[0], " and ", padding[1], " on each side");
    abcfx_unpack_args& args = made.args;
    args.images = bits.size(0);
    args.planes = bits.size(2);
    args.channels = channels;
    args.height = height;
    args.width = width;
    args.top = args.bottom = padding[0];
    args.left = args.right = padding[1];
    args.groups = groups;
    made.dst = new_tensor(bits, {args.images, height, width, groups * channels}, ScalarType::Float);
    return made;
  }

  /// Fills in the rest; `levels` are those of the device, of args.planes planes.
  template <class Levels>
  void complete(const Levels& levels) {
    args.src = reinterpret_cast<const uint64_t*>(bits.const_data_ptr<int64_t>());
    args.dst = dst.mutable_data_ptr<float>();
    args.scale = levels.scale.template const_data_ptr<float>();
    args.shift = levels.shift.template const_data_ptr<float>();
    args.levels = levels.kind;
    args.line_end = args.images * args.height;
    args.pixel_end = args.width;
  }

  /// dst, or of an image [n, groups * channels, H, W] in channels_last strides
  Tensor values() const {
    return dst.dim() == 2 ? dst : torch::stable::transpose(torch::stable::transpose(dst, 2, 3), 1, 2);
  }

 private:
  explicit Unpacking(const Tensor& bits_argument) : bits(bits_argument), dst(bits_argument) {}
};

}  // namespace abcfx
