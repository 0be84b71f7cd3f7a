#pragma once
#include <algorithm>
#include <atomic>

#include "abcfx/bgemm.h"
#include "check.h"

namespace abcfx {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// run(task) for every task, on torch's threads; each takes the next task when it is free, so that a thread slowed down
/// by its neighbours does not hold up the rest. Returns the first status that is not ABCFX_OK.
template <class Run>
int run_tasks(int64_t tasks, const Run& run) {
  std::atomic<int64_t> next{0};
  std::atomic<int> status{ABCFX_OK};
  const auto work = [&](int64_t, int64_t) {
    for (int64_t task = next++; task < tasks; task = next++) {
      const int code = run(task);
      if (code != ABCFX_OK) status = code;
    }
  };
  const int64_t threads = std::min<int64_t>(tasks, torch::stable::get_num_threads());
  if (threads <= 1) {
    work(0, 1);
  } else {
    torch::stable::parallel_for(0, threads, 1, work);
  }
  return status;
}

/// A task is worth a thread from about this much work: 16 Ki xor-popcount-adds of 512 bits, or bytes times four packed,
/// take several microseconds, waking a thread takes half of one.
constexpr int64_t TASK_WORK = 1 << 14;
/// Weights that one task keeps in the second cache while its rows stream past.
constexpr int64_t TASK_WEIGHT_BYTES = 1 << 18;
constexpr int64_t TASKS_PER_THREAD = 4;

/// Rows x column blocks in two dimensions: rows alone leave threads idle on a batch of one and on small images.
inline int run_grid(abcfx_bgemm_args args) {
  const int64_t rows = args.images * args.out_h * args.out_w;
  const int64_t blocks = args.groups * ceil_div(args.cols, ABCFX_LANES);
  if (rows == 0 || blocks == 0) return ABCFX_OK;
  const int64_t words = args.kernel_h * args.kernel_w * args.words;
  const int64_t work = rows * blocks * args.weight_bases * args.activation_bases * std::max<int64_t>(words, 4);
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t wanted = threads == 1 ? 1 : std::clamp<int64_t>(work / TASK_WORK, 1, threads * TASKS_PER_THREAD);
  const int64_t weight_bytes = blocks * args.weight_bases * words * ABCFX_LANES * 8;

  const int64_t row_parts = std::clamp<int64_t>(rows / 96, 1, wanted);
  const int64_t row_step = ceil_div(ceil_div(rows, row_parts), 24) * 24;  // 24: a multiple of every tile's rows
  const int64_t col_parts = std::max(ceil_div(wanted, row_parts), ceil_div(weight_bytes, TASK_WEIGHT_BYTES));
  const int64_t col_step = ceil_div(ceil_div(blocks, col_parts), 4) * 4;
  const int64_t row_tasks = ceil_div(rows, row_step), col_tasks = ceil_div(blocks, col_step);

  const abcfx_bgemm_fn kernel = abcfx_bgemm_choose();
  return run_tasks(row_tasks * col_tasks, [&](int64_t task) {
    abcfx_bgemm_args part = args;
    part.block_begin = task / row_tasks * col_step;
    part.block_end = std::min(part.block_begin + col_step, blocks);
    part.row_begin = task % row_tasks * row_step;
    part.row_end = std::min(part.row_begin + row_step, rows);
    return kernel(&part);
  });
}

}  // namespace abcfx
