#include <math.h>
#include <string.h>

#include "abcfx/refit.h"
#include "solve.h"
#include "sorted_row.h"

// The search of abcfx/quant/alternating.py, row by row: the weights of one code are an interval of the sorted row, so a
// step is a binary search for each edge and small sums, whatever the depth. Everything is f64 but the edges, which are
// compared with f32 weights. One variant: nothing here is a vector.
namespace {

constexpr int MOST = 1 << ABCFX_MAX_BASES;
constexpr double GAUSSIAN_STEP[] = {1.5958, 0.9957, 0.5860, 0.3352, 0.1881, 0.1041, 0.0569, 0.0308};
constexpr double WIDER[] = {0.8, 1.0, 1.25, 1.6, 2.1, 3.0, 4.5, 8.0};
constexpr int ITERATIONS[] = {0, 60, 60, 30, 15, 8, 6, 6};

struct Levels {
  int count;  ///< 2^bases
  double value[MOST];
  uint8_t code[MOST];
};

/// All sums of +-alpha, ascending. Each scale doubles them: two sorted lists are merged, at a tie the smaller code first.
void set_levels(const double* alpha, int bases, Levels& levels) {
  Levels last = {1, {0}, {0}};
  for (int p = 0; p < bases; ++p) {
    const int n = last.count;
    const double size = fabs(alpha[p]);
    const int minus = alpha[p] < 0 ? n : 0, plus = n - minus;  // which sign the bit of the code stands for
    for (int i = 0, j = 0; i + j < 2 * n;) {
      const bool low = j == n || (i < n && last.value[i] - size <= last.value[j] + size);
      levels.value[i + j] = low ? last.value[i] - size : last.value[j] + size;
      levels.code[i + j] = (uint8_t)(low ? last.code[i] | minus : last.code[j] | plus);
      low ? ++i : ++j;
    }
    levels.count = 2 * n;
    last = levels;
  }
}

struct Row : SortedRow {
  bool coded;

  /// bounds[i], bounds[i + 1]: the values nearest to level i.
  void cells(const Levels& levels, int64_t bounds[MOST + 1]) const {
    bounds[0] = 0;
    for (int i = 1; i < levels.count; ++i) {
      bounds[i] = bound((float)((levels.value[i] + levels.value[i - 1]) / 2), bounds[i - 1]);
    }
    bounds[levels.count] = depth;
  }

  /// Least-squares scales of these codes; returns what they explain of the power.
  double fit(const Levels& levels, const int64_t* bounds, int bases, double* alpha) const {
    Normal eq = {};
    eq.n = bases;
    for (int i = 0; i < levels.count; ++i) {
      const double share = (double)(bounds[i + 1] - bounds[i]) / (double)depth;
      const double mean = sum(bounds[i], bounds[i + 1]) / (double)depth;
      for (int p = 0; p < bases; ++p) {
        const double sign = levels.code[i] >> p & 1 ? 1 : -1;
        eq.moment[p] += sign * mean;
        for (int q = 0; q < bases; ++q) eq.gram[p][q] += levels.code[i] >> q & 1 ? sign * share : -sign * share;
      }
    }
    solve(eq, coded, alpha);
    double explained = 0;
    for (int p = 0; p < bases; ++p) explained += alpha[p] * eq.moment[p];
    return explained * (double)depth;
  }

  /// Alternates from `alpha` until no code changes; returns what the scales explain of the power.
  double alternate(int bases, double* alpha) const {
    Levels levels;
    int64_t bounds[MOST + 1], before[MOST + 1] = {-1};
    uint8_t codes[MOST] = {};
    double gain = 0;
    for (int step = 0; step < ITERATIONS[bases - 1]; ++step) {
      set_levels(alpha, bases, levels);
      cells(levels, bounds);
      const size_t bytes = sizeof(int64_t) * (levels.count + 1);
      // levels may pass one another without a weight between them: other codes, the same bounds
      if (memcmp(bounds, before, bytes) == 0 && memcmp(levels.code, codes, levels.count) == 0) break;
      memcpy(before, bounds, bytes);
      memcpy(codes, levels.code, levels.count);
      gain = fit(levels, bounds, bases, alpha);
    }
    return gain;
  }

  /// Uniform planes, the step that errs least of a few.
  void uniform_start(double rms, int bases, double* alpha) const {
    double least = INFINITY;
    for (double factor : WIDER) {
      double tried[ABCFX_MAX_BASES], error = 0;
      for (int p = 0; p < bases; ++p) tried[p] = factor * GAUSSIAN_STEP[bases - 1] * rms * (1 << p) / 2;
      Levels levels;
      int64_t bounds[MOST + 1];
      set_levels(tried, bases, levels);
      cells(levels, bounds);
      for (int i = 0; i < levels.count; ++i) {
        const double count = (double)(bounds[i + 1] - bounds[i]);
        error += levels.value[i] * (count * levels.value[i] - 2 * sum(bounds[i], bounds[i + 1]));
      }
      if (error < least) {
        least = error;
        memcpy(alpha, tried, sizeof(double) * bases);
      }
    }
  }

  /// mean |w - nearest level|: the scale of one more basis on the residual.
  double residual_scale(const double* alpha, int bases) const {
    Levels levels;
    int64_t bounds[MOST + 1];
    set_levels(alpha, bases, levels);
    cells(levels, bounds);
    double total = 0;
    for (int i = 0; i < levels.count; ++i) {
      const int64_t begin = bounds[i], end = bounds[i + 1], middle = bound((float)levels.value[i], begin);
      const int64_t split = middle < end ? middle : end;
      total += sum(split, end) - (double)(end - split) * levels.value[i];
      total -= sum(begin, split) - (double)(split - begin) * levels.value[i];
    }
    return total / (double)depth;
  }

  void search(double rms, int bases, double* alpha) const {
    if (coded) {
      uniform_start(rms, bases, alpha);
      alternate(bases, alpha);
      return;
    }
    const int64_t zero = bound(0.0f, 0);
    alpha[0] = (sum(zero, depth) - sum(0, zero)) / (double)depth;  // mean |w|
    for (int count = 2; count <= bases; ++count) {
      double uniform[ABCFX_MAX_BASES];
      uniform_start(rms, count, uniform);
      alpha[count - 1] = residual_scale(alpha, count - 1);
      if (alternate(count, uniform) >= alternate(count, alpha)) memcpy(alpha, uniform, sizeof(double) * count);
    }
  }
};

}  // namespace

int abcfx_search_rows(const struct abcfx_search_args* args) {
  if (args->bases < 1 || args->bases > ABCFX_MAX_BASES || args->depth < 1 || args->row_begin < 0 ||
      args->row_end > args->rows) {
    return ABCFX_BAD_SHAPE;
  }
  for (int64_t o = args->row_begin; o < args->row_end; ++o) {
    const Row row = {{args->sorted + o * args->depth, args->prefix + o * (args->depth + 1), args->depth}, args->coded != 0};
    row.search(args->rms[o], (int)args->bases, args->scales + o * args->bases);
  }
  return ABCFX_OK;
}
