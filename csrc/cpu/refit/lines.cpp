#include <string.h>

#include "abcfx/refit.h"
#include "sorted_row.h"

// The alternation of abcfx/quant/fit_coded.py, line by line: the samples of one code are an interval of the sorted row.
namespace {

constexpr int MOST = (1 << ABCFX_MAX_BASES) - 1;  // the highest code

struct Line {
  double step, origin;

  double at(double code) const { return step * code + origin; }
};

/// bounds[k], bounds[k + 1]: the samples nearest to the value of code k. Not ascending where step is negative.
void set_bounds(const SortedRow& row, const Line& line, int top, int64_t* bounds) {
  bounds[0] = 0;
  for (int k = 0; k < top; ++k) bounds[k + 1] = row.bound((float)line.at(k + 0.5), 0);
  bounds[top + 1] = row.depth;
}

/// The least-squares line through (code, sample); one whose samples all share a code keeps its step.
Line fit(const SortedRow& row, const int64_t* bounds, int top, bool anchored, const Line& last) {
  double mean_code = 0, mean = 0, moment = 0, spread = 0;
  for (int k = 0; k <= top; ++k) {
    moment += row.sum(bounds[k], bounds[k + 1]) * k;
    if (!anchored) mean_code += (double)(bounds[k + 1] - bounds[k]) * k / (double)row.depth;
  }
  if (!anchored) mean = row.sum(0, row.depth) / (double)row.depth;
  for (int k = 0; k <= top; ++k) spread += (double)(bounds[k + 1] - bounds[k]) * (k - mean_code) * (k - mean_code);
  const double step = spread > 0 ? (moment - (double)row.depth * mean_code * mean) / spread : last.step;
  return {step, mean - step * mean_code};
}

/// The squared error of the samples between `bounds`, less the constant sum of their squares.
double error_of(const SortedRow& row, const int64_t* bounds, int top, const Line& line) {
  double error = 0;
  for (int k = 0; k <= top; ++k) {
    const double value = line.at(k), count = (double)(bounds[k + 1] - bounds[k]);
    error += count * value * value - 2 * row.sum(bounds[k], bounds[k + 1]) * value;
  }
  return error;
}

}  // namespace

int abcfx_fit_lines(const struct abcfx_lines_args* args) {
  if (args->top < 1 || args->top > MOST || args->depth < 1 || args->alternations < 1 || args->row_begin < 0 ||
      args->row_end > args->rows) {
    return ABCFX_BAD_SHAPE;
  }
  const SortedRow row = {args->sorted, args->prefix, args->depth};
  const int top = (int)args->top;
  for (int64_t i = args->row_begin; i < args->row_end; ++i) {
    Line line = {args->start[2 * i], args->start[2 * i + 1]};
    int64_t bounds[MOST + 2], before[MOST + 2];
    for (int64_t step = 0; step < args->alternations; ++step) {
      set_bounds(row, line, top, bounds);
      const size_t bytes = sizeof(int64_t) * (size_t)(top + 2);
      if (step > 0 && memcmp(bounds, before, bytes) == 0) break;
      memcpy(before, bounds, bytes);
      line = fit(row, bounds, top, args->anchored != 0, line);
    }
    args->lines[2 * i] = line.step;
    args->lines[2 * i + 1] = line.origin;
    args->error[i] = error_of(row, bounds, top, line);
  }
  return ABCFX_OK;
}
