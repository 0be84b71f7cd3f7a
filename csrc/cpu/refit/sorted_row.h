#pragma once
#include <stdint.h>

/// Samples in ascending order with their prefix sums: an interval of them costs a binary search for each end.
struct SortedRow {
  const float* values;   ///< ascending
  const double* prefix;  ///< prefix[i]: sum of the i smallest
  int64_t depth;

  /// Where the values from `edge` on begin, at `from` or later.
  int64_t bound(float edge, int64_t from) const {
    int64_t size = depth - from;
    while (size > 0) {
      const int64_t half = size / 2;
      const bool below = values[from + half] < edge;
      from = below ? from + half + 1 : from;
      size = below ? size - half - 1 : half;
    }
    return from;
  }

  double sum(int64_t begin, int64_t end) const { return prefix[end] - prefix[begin]; }
};
