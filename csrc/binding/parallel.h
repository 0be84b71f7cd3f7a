#pragma once
#include <algorithm>
#include <atomic>
#include <memory>
#include <new>

#include "abcfx/bgemm.h"
#include "abcfx/lut.h"
#include "check.h"

namespace abcfx {

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

/// Bytes that are worth a thread: several microseconds at the speed of the caches; waking a thread takes half of one.
constexpr int64_t TASK_BYTES = 1 << 17;
constexpr int64_t TASKS_PER_THREAD = 4;

/// In how many tasks to split what reads or writes this many bytes.
inline int64_t tasks_for(int64_t bytes) {
  const int64_t threads = torch::stable::get_num_threads();
  return threads == 1 ? 1 : std::clamp<int64_t>(bytes / TASK_BYTES, 1, threads * TASKS_PER_THREAD);
}

/// run(begin, end) on parts of [0, count) of whole `unit`s, as many as this many bytes are worth.
template <class Run>
int run_ranges(int64_t count, int64_t bytes, const Run& run, int64_t unit = 1) {
  if (count == 0) return ABCFX_OK;
  const int64_t step = std::max<int64_t>(ceil_div(ceil_div(count, tasks_for(bytes)), unit) * unit, 1);
  return run_tasks(ceil_div(count, step),
                   [&](int64_t task) { return run(task * step, std::min((task + 1) * step, count)); });
}

/// Splits `lines` of args.width pixels over tasks, or the pixels of one line, in whole units, if that is all there is.
template <class Args>
int run_lines(const Args& args, int64_t lines, int64_t bytes, int (*kernel)(const Args*), int64_t unit = 1) {
  if (lines == 1 && args.width > 0) {
    return run_ranges(args.width, bytes, [&](int64_t begin, int64_t end) {
      Args part = args;
      part.pixel_begin = begin;
      part.pixel_end = end;
      return kernel(&part);
    }, unit);
  }
  return run_ranges(lines, bytes, [&](int64_t begin, int64_t end) {
    Args part = args;
    part.line_begin = begin;
    part.line_end = end;
    return kernel(&part);
  });
}

/// A task is worth a thread from about this much work: 16 Ki xor-popcount-adds of 512 bits, or bytes times four packed,
/// take several microseconds, waking a thread takes half of one.
constexpr int64_t TASK_WORK = 1 << 14;
/// Weights that one task keeps in the second cache while its rows stream past.
constexpr int64_t TASK_WEIGHT_BYTES = 1 << 18;

/// What a thread keeps scratch for; each purpose has memory of its own.
enum class Scratch { KERNEL, VALUES, NORMALIZED };

/// Scratch of the calling thread, at least `bytes` and aligned to 64: kept from call to call, it only grows.
template <Scratch PURPOSE>
void* thread_scratch(int64_t bytes) {
  struct Aligned {
    void operator()(void* memory) const { ::operator delete(memory, std::align_val_t{64}); }
  };
  thread_local std::unique_ptr<void, Aligned> memory;
  thread_local int64_t held = 0;
  if (held < bytes) {
    memory.reset();
    held = 0;
    memory.reset(::operator new((size_t)bytes, std::align_val_t{64}));
    held = bytes;
  }
  return memory.get();
}

/// How a product is cut into tasks: steps of rows, and of blocks of output channels.
struct Cut {
  int64_t rows, row_step, blocks, col_step;
};

/// Runs one part of a cut product on this thread.
inline int run_part(abcfx_bgemm_args part, int64_t row, int64_t row_end, int64_t block, int64_t block_end) {
  part.row_begin = row;
  part.row_end = row_end;
  part.block_begin = block;
  part.block_end = block_end;
  return abcfx_bgemm_choose()(&part);
}

inline int run_part(abcfx_lut_args part, int64_t row, int64_t row_end, int64_t block, int64_t block_end) {
  part.product.row_begin = row;
  part.product.row_end = row_end;
  part.product.block_begin = block;
  part.product.block_end = block_end;
  part.scratch = thread_scratch<Scratch::KERNEL>(abcfx_lut_scratch_bytes(&part));
  return abcfx_lut_choose()(&part);
}

/// The whole product, on all threads.
template <class Args>
int run_cut(const Args& args, const Cut& cut) {
  if (cut.rows == 0 || cut.blocks == 0) return ABCFX_OK;
  const int64_t row_tasks = ceil_div(cut.rows, cut.row_step), col_tasks = ceil_div(cut.blocks, cut.col_step);
  return run_tasks(row_tasks * col_tasks, [&](int64_t task) {
    const int64_t row = task % row_tasks * cut.row_step, block = task / row_tasks * cut.col_step;
    return run_part(args, row, std::min(row + cut.row_step, cut.rows), block,
                    std::min(block + cut.col_step, cut.blocks));
  });
}

/// Rows [begin, end) with all blocks, on this thread, as many blocks at a time as the cut says.
template <class Args>
int run_rows(const Args& args, const Cut& cut, int64_t begin, int64_t end) {
  int status = ABCFX_OK;
  for (int64_t block = 0; status == ABCFX_OK && block < cut.blocks; block += cut.col_step) {
    status = run_part(args, begin, end, block, std::min(block + cut.col_step, cut.blocks));
  }
  return status;
}

/// Tasks that this much work is worth.
inline int64_t tasks_for_work(int64_t work, int64_t threads) {
  return threads == 1 ? 1 : std::clamp<int64_t>(work / TASK_WORK, 1, threads * TASKS_PER_THREAD);
}

/// Rows x column blocks in two dimensions: rows alone leave threads idle on a batch of one and on small images.
inline Cut cut_of(const abcfx_bgemm_args& args, int64_t threads) {
  const int64_t rows = args.images * args.out_h * args.out_w;
  const int64_t blocks = args.groups * ceil_div(args.cols, ABCFX_LANES);
  const int64_t words = args.kernel_h * args.kernel_w * args.words;
  const int64_t work = rows * blocks * args.weight_bases * args.activation_bases * std::max<int64_t>(words, 4);
  const int64_t wanted = tasks_for_work(work, threads);
  const int64_t weight_bytes = blocks * args.weight_bases * words * ABCFX_LANES * 8;

  const int64_t row_parts = std::clamp<int64_t>(rows / 96, 1, wanted);
  const int64_t row_step = ceil_div(ceil_div(rows, row_parts), 24) * 24;  // 24: a multiple of every tile's rows
  const int64_t col_parts = std::max(ceil_div(wanted, row_parts), ceil_div(weight_bytes, TASK_WEIGHT_BYTES));
  return {rows, row_step, blocks, std::max<int64_t>(ceil_div(ceil_div(blocks, col_parts), 4) * 4, 1)};
}

/// Every task of a tile product spreads its weights, which is worth it for a hundred rows or more, so columns are split
/// before rows.
inline Cut cut_of_tiles(int64_t rows, int64_t unit, int64_t blocks, int64_t wanted) {
  constexpr int64_t ENOUGH_ROWS = 256, FEW_ROWS = 64;
  const int64_t large = std::clamp<int64_t>(rows / ENOUGH_ROWS, 1, wanted);
  const int64_t col_tasks = std::min(blocks, ceil_div(wanted, large));
  const int64_t row_tasks = std::clamp<int64_t>(rows / FEW_ROWS, 1, ceil_div(wanted, col_tasks));
  return {rows, ceil_div(ceil_div(rows, row_tasks), unit) * unit, blocks, ceil_div(blocks, col_tasks)};
}

/// Every task of a lookup product makes its own tables, so rows are split before columns, by whole output lines where
/// there are several. Columns are split if the rows do not keep the threads busy, or if the weights of a task would not
/// stay in the second cache.
inline Cut cut_of(const abcfx_lut_args& args, int64_t threads) {
  const abcfx_bgemm_args& product = args.product;
  const int64_t lanes = abcfx_lut_lanes(nullptr);
  const int64_t rows = product.images * product.out_h * product.out_w;
  const int64_t blocks = product.groups * ceil_div(product.cols, lanes);
  if (rows == 0 || blocks == 0) return {rows, 1, blocks, 1};
  const int64_t plane = product.kernel_h * product.kernel_w * ceil_div(args.channels, 8);
  const int64_t vectors = abcfx_lut_vectors(product.weight_bases, product.cols, lanes);
  const int64_t block_bytes = vectors * plane * lanes;
  const int64_t wanted = tasks_for_work(rows * (blocks * block_bytes / 64 + plane), threads);
  if (abcfx_lut_tiled()) return cut_of_tiles(rows, product.images * product.out_h > 1 ? product.out_w : 1, blocks, wanted);

  const int64_t unit = product.images * product.out_h > 1 ? product.out_w : 6;  // 6: the rows of a tile
  const int64_t units = ceil_div(rows, unit);
  const int64_t row_step = ceil_div(units, std::min(units, wanted)) * unit, row_tasks = ceil_div(rows, row_step);
  const int64_t by_threads = row_tasks >= threads ? 1 : ceil_div(wanted, row_tasks);
  // making the tables of a pixel takes twice as long as looking them up for one vector and tap: at least forty share
  // them, also where a block is so deep (weight gradients) that few would stay in the cache
  const int64_t by_table = std::max<int64_t>(blocks * vectors * product.kernel_h * product.kernel_w / 40, 1);
  const int64_t by_cache = std::min(ceil_div(blocks * block_bytes, 2 * TASK_WEIGHT_BYTES), by_table);
  return {rows, row_step, blocks, ceil_div(blocks, std::max(by_threads, by_cache))};
}

}  // namespace abcfx
