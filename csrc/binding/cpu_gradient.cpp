#include "gradient.h"
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

}  // namespace

Tensor round_gradient(const Tensor& grad, const Tensor& gain, const Tensor& inverse, const Tensor& seed,
                      int64_t planes) {
  Rounding rounding(OnCpu(), grad, gain, inverse, seed, planes);
  rounding.args.seed = rounding.seed.const_data_ptr<int64_t>()[0];
  const int status = run_round(rounding.args);
  STD_TORCH_CHECK(status == ABCFX_OK, "abc_k::round_gradient: the kernel refused its arguments, status ", status);
  return rounding.codes();
}

std::tuple<Tensor, Tensor> pack_positions(const Tensor& bits, int64_t channels, std::vector<int64_t> kernel,
                                          std::vector<int64_t> stride, std::vector<int64_t> dilation,
                                          std::vector<int64_t> out, int64_t lanes) {
  STD_TORCH_CHECK(lanes == ABCFX_LANES || lanes == 32 || lanes == 64,
                  "abc_k::pack_positions: lanes must be 8 (xor and popcount), 32 or 64 (table lookup), got ", lanes);
  Positions positions(OnCpu(), bits, channels, kernel, stride, dilation, out);
  abcfx_positions_args& args = positions.args;
  const int64_t columns = positions.columns, depth = positions.depth;
  const int64_t blocks = ceil_div(columns, lanes), planes = args.planes;
  Tensor dst = lanes == ABCFX_LANES
                   ? new_tensor(bits, {1, blocks, planes, ceil_div(depth, 64), lanes}, ScalarType::Long)
                   : new_tensor(
                         bits, {1, blocks, abcfx_lut_vectors(planes, columns, lanes), 1, ceil_div(depth, 8), lanes},
                         ScalarType::Byte);
  Tensor counts = new_tensor(bits, {planes, columns}, ScalarType::Int);
  args.lanes = lanes;
  args.dst = dst.mutable_data_ptr();
  const int status = run_positions(args, columns, (int32_t*)counts.mutable_data_ptr());
  STD_TORCH_CHECK(status == ABCFX_OK, "abc_k::pack_positions: the kernel refused its arguments, status ", status);
  return {dst, counts};
}

}  // namespace abcfx
