#include "abcfx/refit.h"

#include <tuple>

#include "ops.h"
#include "parallel.h"

namespace abcfx {
namespace {

/// kernel(args) on parts of its rows; `work` is how many weights and planes a row has.
template <class Args, class Kernel>
void run_rows(const char* op, const Args& args, int64_t work, const Kernel& kernel) {
  const int64_t step = std::max<int64_t>(TASK_WORK * 4 / std::max<int64_t>(work, 1), 1);
  const int status = run_tasks(ceil_div(args.rows, step), [&](int64_t task) {
    Args part = args;
    part.row_begin = task * step;
    part.row_end = std::min(part.row_begin + step, args.rows);
    return kernel(part);
  });
  STD_TORCH_CHECK(status == ABCFX_OK, "abc_k::", op, ": the kernel refused its arguments, status ", status);
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> refit_weights(const Tensor& weight, const Tensor& alpha,
                                                         int64_t alternations, bool coded) {
  const char* op = "refit_weights";
  STD_TORCH_CHECK(weight.is_cpu() && weight.scalar_type() == ScalarType::Float && weight.dim() == 3, "abc_k::", op,
                  ": weight must be a CPU tensor of Float [outputs, taps, channels], got ",
                  torch::headeronly::toString(weight.scalar_type()), " ", shape_text(weight));
  const int64_t rows = weight.size(0), taps = weight.size(1), channels = weight.size(2);
  const Tensor start = expect(op, "alpha", alpha, ScalarType::Float, {-1, rows});
  const int64_t bases = start.size(0);
  expect_range(op, "the number of bases", bases, 1, ABCFX_MAX_BASES);
  expect_range(op, "alternations", alternations, 1, INT32_MAX);
  STD_TORCH_CHECK(taps >= 1 && channels >= 1, "abc_k::", op, ": weight must not be empty, got ", shape_text(weight));
  Tensor dst = new_tensor(weight, {bases, rows, taps, channels}, ScalarType::Char);
  Tensor scales = new_tensor(weight, {bases, rows}, ScalarType::Float);
  Tensor error = new_tensor(weight, {rows}, ScalarType::Double);
  Tensor power = new_tensor(weight, {rows}, ScalarType::Double);
  abcfx_refit_args args = {};
  args.src = weight.const_data_ptr<float>();
  args.start = start.const_data_ptr<float>();
  args.dst = dst.mutable_data_ptr<int8_t>();
  args.alpha = scales.mutable_data_ptr<float>();
  args.error = error.mutable_data_ptr<double>();
  args.power = power.mutable_data_ptr<double>();
  args.bases = bases;
  args.rows = rows;
  args.taps = taps;
  args.channels = channels;
  args.stride_row = weight.stride(0);
  args.stride_tap = weight.stride(1);
  args.stride_channel = weight.stride(2);
  args.alternations = alternations;
  args.coded = coded;
  const abcfx_refit_fn kernel = abcfx_refit_choose();
  run_rows(op, args, taps * channels * (bases + 1), [&](abcfx_refit_args& part) {
    part.scratch = thread_scratch<Scratch::KERNEL>(abcfx_refit_scratch_bytes(&part));
    return kernel(&part);
  });
  return {dst, scales, error, power};
}

std::tuple<Tensor, Tensor> dequantize_weights(const Tensor& bases, const Tensor& alpha) {
  const char* op = "dequantize_weights";
  const Tensor src = expect(op, "bases", bases, ScalarType::Char, {-1, -1, -1, -1});
  const int64_t planes = src.size(0), rows = src.size(1), taps = src.size(2), channels = src.size(3);
  expect_range(op, "the number of bases", planes, 1, ABCFX_MAX_BASES);
  const Tensor scales = expect(op, "alpha", alpha, ScalarType::Float, {planes, rows});
  Tensor out = new_tensor(scales, {rows, channels, taps}, ScalarType::Float);
  Tensor tap_sums = new_tensor(scales, {rows, taps}, ScalarType::Float);
  abcfx_dequantize_args args = {};
  args.src = src.const_data_ptr<int8_t>();
  args.alpha = scales.const_data_ptr<float>();
  args.out = out.mutable_data_ptr<float>();
  args.tap_sums = tap_sums.mutable_data_ptr<float>();
  args.bases = planes;
  args.rows = rows;
  args.taps = taps;
  args.channels = channels;
  run_rows(op, args, taps * channels * (planes + 1), [](const auto& part) { return abcfx_dequantize_rows(&part); });
  return {out, tap_sums};
}

Tensor search_scales(const Tensor& sorted, const Tensor& prefix, const Tensor& rms, int64_t bases, bool coded) {
  const char* op = "search_scales";
  const Tensor values = expect(op, "sorted", sorted, ScalarType::Float, {-1, -1});
  const int64_t rows = values.size(0), depth = values.size(1);
  const Tensor sums = expect(op, "prefix", prefix, ScalarType::Double, {rows, depth + 1});
  const Tensor size = expect(op, "rms", rms, ScalarType::Double, {rows});
  expect_range(op, "the number of bases", bases, 1, ABCFX_MAX_BASES);
  STD_TORCH_CHECK(depth >= 1, "abc_k::", op, ": sorted must not be empty, got ", shape_text(values));
  Tensor scales = new_tensor(size, {rows, bases}, ScalarType::Double);
  abcfx_search_args args = {};
  args.sorted = values.const_data_ptr<float>();
  args.prefix = sums.const_data_ptr<double>();
  args.rms = size.const_data_ptr<double>();
  args.scales = scales.mutable_data_ptr<double>();
  args.bases = bases;
  args.coded = coded;
  args.rows = rows;
  args.depth = depth;
  run_rows(op, args, TASK_WORK, [](const auto& part) { return abcfx_search_rows(&part); });
  return scales;
}

std::tuple<Tensor, Tensor> fit_lines(const Tensor& sorted, const Tensor& prefix, const Tensor& lines, int64_t top,
                                     bool anchored, int64_t alternations) {
  const char* op = "fit_lines";
  const Tensor values = expect(op, "sorted", sorted, ScalarType::Float, {-1});
  const int64_t depth = values.size(0);
  const Tensor sums = expect(op, "prefix", prefix, ScalarType::Double, {depth + 1});
  const Tensor start = expect(op, "lines", lines, ScalarType::Double, {-1, 2});
  const int64_t rows = start.size(0);
  expect_range(op, "the highest code", top, 1, (1 << ABCFX_MAX_BASES) - 1);
  expect_range(op, "alternations", alternations, 1, INT32_MAX);
  STD_TORCH_CHECK(depth >= 1, "abc_k::", op, ": sorted must not be empty, got ", shape_text(values));
  Tensor found = new_tensor(start, {rows, 2}, ScalarType::Double);
  Tensor error = new_tensor(start, {rows}, ScalarType::Double);
  abcfx_lines_args args = {};
  args.sorted = values.const_data_ptr<float>();
  args.prefix = sums.const_data_ptr<double>();
  args.start = start.const_data_ptr<double>();
  args.lines = found.mutable_data_ptr<double>();
  args.error = error.mutable_data_ptr<double>();
  args.top = top;
  args.anchored = anchored;
  args.alternations = alternations;
  args.depth = depth;
  args.rows = rows;
  run_rows(op, args, TASK_WORK, [](const auto& part) { return abcfx_fit_lines(&part); });
  return {found, error};
}

}  // namespace abcfx
