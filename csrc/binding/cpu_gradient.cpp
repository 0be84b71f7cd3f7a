#include "abcfx/positions.h"
#include "abcfx/round.h"
#include "ops.h"
#include "parallel.h"

namespace abcfx {
namespace {

/// Codes that are worth a thread: several microseconds of two cycles each.
constexpr int64_t ROUND_TASK_CODES = 1 << 14;

int run_round(const abcfx_round_args& args) {
  const int64_t pixels = args.images * args.height * args.width;
  const int64_t pixel_codes = std::max<int64_t>(args.gains * args.channels, 1);
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t wanted =
      std::clamp<int64_t>(pixels * pixel_codes / ROUND_TASK_CODES, 1, threads == 1 ? 1 : threads * TASKS_PER_THREAD);
  const int64_t step = std::max<int64_t>(ceil_div(pixels, wanted), 1);
  const abcfx_round_fn kernel = abcfx_round_choose();
  return run_tasks(ceil_div(pixels, step), [&](int64_t task) {
    abcfx_round_args part = args;
    part.pixel_begin = task * step;
    part.pixel_end = std::min(part.pixel_begin + step, pixels);
    return kernel(&part);
  });
}

/// Groups of 64 positions over tasks; each counts for itself, and whole numbers are added in any order.
int run_positions(abcfx_positions_args args, int64_t columns, int32_t* counts) {
  const int64_t groups = ceil_div(args.images * args.out_h * args.out_w, 64);
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t work = groups * args.planes * columns;  // words of 64 bits: about four cycles each
  const int64_t wanted = threads == 1 ? 1 : std::clamp<int64_t>(work / (TASK_WORK / 4), 1, threads * TASKS_PER_THREAD);
  const int64_t step = std::max<int64_t>(ceil_div(groups, wanted), 1), tasks = ceil_div(groups, step);
  const int64_t entries = args.planes * columns;
  std::vector<int32_t> partial(tasks * entries);
  const abcfx_positions_fn kernel = abcfx_positions_choose();
  const int status = run_tasks(tasks, [&](int64_t task) {
    abcfx_positions_args part = args;
    part.counts = partial.data() + task * entries;
    part.group_begin = task * step;
    part.group_end = std::min(part.group_begin + step, groups);
    part.scratch = thread_scratch<Scratch::KERNEL>(abcfx_positions_scratch_bytes(&part));
    return kernel(&part);
  });
  std::fill_n(counts, entries, 0);
  for (int64_t i = 0; i < tasks * entries; ++i) counts[i % entries] += partial[i];
  return status;
}

void check_reach(const char* name, int64_t padded, int64_t kernel, int64_t stride, int64_t dilation, int64_t out) {
  const int64_t reach = (std::max<int64_t>(out, 1) - 1) * stride + (kernel - 1) * dilation + 1;
  STD_TORCH_CHECK(padded >= reach, "abc_k::pack_positions: ", out, " output positions reach ", reach,
                  " pixels, but the padded ", name, " is ", padded);
}

}  // namespace

Tensor round_gradient(const Tensor& grad, const Tensor& gain_argument, const Tensor& inverse_argument,
                      const Tensor& seed_argument, int64_t planes) {
  const char* op = "round_gradient";
  STD_TORCH_CHECK(grad.is_cpu() && grad.scalar_type() == ScalarType::Float && (grad.dim() == 2 || grad.dim() == 4),
                  "abc_k::round_gradient: grad must be a Float CPU tensor of 2 or 4 dimensions, got ",
                  torch::headeronly::toString(grad.scalar_type()), " of shape ", shape_text(grad));
  expect_range(op, "the number of planes", planes, 1, ABCFX_MAX_BASES);
  const bool image = grad.dim() == 4;
  const int64_t n = grad.size(0), channels = grad.size(1);
  const Tensor gain = expect(op, "gain", gain_argument, ScalarType::Float, {-1, channels});
  const bool shared = inverse_argument.numel() == 1;
  const Tensor inverse = expect(op, "inverse", inverse_argument, ScalarType::Float, {shared ? 1 : n});
  const Tensor seed = expect(op, "seed", seed_argument, ScalarType::Long, {1});
  abcfx_round_args args = {};
  args.gain = gain.const_data_ptr<float>();
  args.inverse = inverse.const_data_ptr<float>();
  args.inverse_step = shared ? 0 : 1;
  args.seed = seed.const_data_ptr<int64_t>()[0];
  args.planes = planes;
  args.gains = gain.size(0);
  args.channels = channels;
  args.src = grad.const_data_ptr<float>();
  args.stride_c = grad.stride(1);
  const bool lines = !image && shared;  // rows with one step: pixels of one line
  args.images = lines ? 1 : n;
  args.height = image ? grad.size(2) : 1;
  args.width = image ? grad.size(3) : lines ? n : 1;
  args.stride_n = lines ? 0 : grad.stride(0);
  args.stride_h = image ? grad.stride(2) : 0;
  args.stride_w = image ? grad.stride(3) : lines ? grad.stride(0) : 0;
  const int64_t codes = args.gains * channels;
  Tensor dst = image ? torch::stable::new_empty(grad, {n, args.height, args.width, codes}, ScalarType::BFloat16)
                     : torch::stable::new_empty(grad, {n, codes}, ScalarType::BFloat16);
  args.dst = (uint16_t*)dst.mutable_data_ptr();
  const int status = run_round(args);
  STD_TORCH_CHECK(status == ABCFX_OK, "abc_k::round_gradient: the kernel refused its arguments, status ", status);
  return image ? torch::stable::transpose(torch::stable::transpose(dst, 1, 3), 2, 3) : dst;
}

std::tuple<Tensor, Tensor> pack_positions(const Tensor& bits_argument, int64_t channels, std::vector<int64_t> kernel,
                                          std::vector<int64_t> stride, std::vector<int64_t> dilation,
                                          std::vector<int64_t> out, int64_t lanes) {
  const char* op = "pack_positions";
  expect_pair(op, "kernel", kernel, 1);
  expect_pair(op, "stride", stride, 1);
  expect_pair(op, "dilation", dilation, 1);
  expect_pair(op, "out", out, 0);
  STD_TORCH_CHECK(channels >= 0, "abc_k::pack_positions: channels must not be negative, got ", channels);
  STD_TORCH_CHECK(lanes == ABCFX_LANES || lanes == 32 || lanes == 64,
                  "abc_k::pack_positions: lanes must be 8 (xor and popcount), 32 or 64 (table lookup), got ", lanes);
  const Tensor bits = expect(op, "bits", bits_argument, ScalarType::Long, {-1, -1, -1, -1, ceil_div(channels, 64)});
  expect_range(op, "the number of planes", bits.size(2), 1, ABCFX_MAX_BASES);
  check_reach("height", bits.size(1), kernel[0], stride[0], dilation[0], out[0]);
  check_reach("width", bits.size(3), kernel[1], stride[1], dilation[1], out[1]);
  abcfx_positions_args args = {};
  args.src = reinterpret_cast<const uint64_t*>(bits.const_data_ptr<int64_t>());
  args.images = bits.size(0);
  args.padded_h = bits.size(1);
  args.planes = bits.size(2);
  args.padded_w = bits.size(3);
  args.channels = channels;
  args.kernel_h = kernel[0];
  args.kernel_w = kernel[1];
  args.stride_h = stride[0];
  args.stride_w = stride[1];
  args.dilation_h = dilation[0];
  args.dilation_w = dilation[1];
  args.out_h = out[0];
  args.out_w = out[1];
  args.lanes = lanes;
  const int64_t columns = kernel[0] * kernel[1] * channels, depth = args.images * out[0] * out[1];
  const int64_t blocks = ceil_div(columns, lanes), planes = args.planes;
  Tensor dst = lanes == ABCFX_LANES
                   ? torch::stable::new_empty(bits, {1, blocks, planes, ceil_div(depth, 64), lanes}, ScalarType::Long)
                   : torch::stable::new_empty(
                         bits, {1, blocks, abcfx_lut_vectors(planes, columns, lanes), 1, ceil_div(depth, 8), lanes},
                         ScalarType::Byte);
  Tensor counts = torch::stable::new_empty(bits, {planes, columns}, ScalarType::Int);
  args.dst = dst.mutable_data_ptr();
  const int status = run_positions(args, columns, (int32_t*)counts.mutable_data_ptr());
  STD_TORCH_CHECK(status == ABCFX_OK, "abc_k::pack_positions: the kernel refused its arguments, status ", status);
  return {dst, counts};
}

}  // namespace abcfx
