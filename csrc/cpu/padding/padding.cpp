#include "abcfx/padding.h"

int64_t abcfx_padding_classes(int64_t out, int64_t size, int64_t taps, int64_t stride, int64_t dilation,
                              int64_t before, int32_t* class_of, int32_t* first, int32_t* last) {
  int64_t classes = 0;
  for (int64_t y = 0; y < out; ++y) {
    const int64_t origin = y * stride - before;
    int64_t begin = 0, end = taps;
    while (begin < end && origin + begin * dilation < 0) ++begin;
    while (end > begin && origin + (end - 1) * dilation >= size) --end;
    if (begin == end) begin = end = 0;  // no tap inside: one class, wherever the window lies
    int64_t found = classes - 1;        // neighbours mostly share their class
    while (found >= 0 && (first[found] != begin || last[found] != end)) --found;
    if (found < 0) {
      found = classes++;
      first[found] = (int32_t)begin;
      last[found] = (int32_t)end;
    }
    class_of[y] = (int32_t)found;
  }
  return classes;
}

namespace {

constexpr int64_t COLS = 32;   ///< output channels worked on side by side: the inner loops are vector additions
constexpr int64_t TAPS = 128;  ///< taps transposed at a time; sums over taps are made piece by piece

/// Taps [begin, end) of the channels [col, col + count), tap-major; channels that do not exist are 0.
struct Piece {
  int64_t col, count, begin, end;
  float sums[TAPS][COLS];
  float total[COLS];

  void read(const abcfx_padding_args& args, int64_t taps) {
    for (int64_t k = 0; k < COLS; ++k) total[k] = 0.0f;
    for (int64_t t = begin; t < end; ++t) {
      float* row = sums[t - begin];
      for (int64_t k = 0; k < COLS; ++k) row[k] = k < count ? args.tap_sums[(col + k) * taps + t] : 0.0f;
      for (int64_t k = 0; k < COLS; ++k) total[k] += row[k];
    }
  }

  /// Adds c * valid - B * (total - valid) = (c + B) * valid - B * total to the base of one class.
  void add(const abcfx_padding_args& args, int64_t i, int64_t j, float* base) const {
    float valid[COLS] = {};
    for (int64_t y = args.first_h[i]; y < args.last_h[i]; ++y) {
      for (int64_t x = args.first_w[j]; x < args.last_w[j]; ++x) {
        const int64_t t = y * args.kernel_w + x;
        if (t < begin || t >= end) continue;
        for (int64_t k = 0; k < COLS; ++k) valid[k] += sums[t - begin][k];
      }
    }
    const float both = args.constant + args.beta_sum;
    for (int64_t k = 0; k < count; ++k) base[k] += both * valid[k] - args.beta_sum * total[k];
  }
};

}  // namespace

int abcfx_padding_base(const struct abcfx_padding_args* args) {
  const int64_t taps = args->kernel_h * args->kernel_w, classes = args->classes_h * args->classes_w;
  Piece piece;
  for (int64_t col = 0; col < args->cols; col += COLS) {
    piece.col = col;
    piece.count = args->cols - col < COLS ? args->cols - col : COLS;
    for (int64_t class_index = 0; class_index < classes; ++class_index) {
      float* base = args->base + class_index * args->cols + col;
      for (int64_t k = 0; k < piece.count; ++k) base[k] = args->bias ? args->bias[col + k] : 0.0f;
    }
    for (piece.begin = 0; piece.begin < taps; piece.begin += TAPS) {
      piece.end = piece.begin + TAPS < taps ? piece.begin + TAPS : taps;
      piece.read(*args, taps);
      for (int64_t i = 0; i < args->classes_h; ++i) {
        for (int64_t j = 0; j < args->classes_w; ++j) {
          piece.add(*args, i, j, args->base + (i * args->classes_w + j) * args->cols + col);
        }
      }
    }
  }
  return ABCFX_OK;
}
