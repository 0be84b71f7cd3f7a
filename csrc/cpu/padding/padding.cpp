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

/// With T the sum over all taps: bias + c * valid - B * (T - valid) = (bias - B * T) + (c + B) * valid.
/// The two bracketed parts need no list of the taps outside.
int abcfx_padding_base(const struct abcfx_padding_args* args) {
  const int64_t taps = args->kernel_h * args->kernel_w;
  for (int64_t o = 0; o < args->cols; ++o) {
    const float* sums = args->tap_sums + o * taps;
    float total = 0.0f;
    for (int64_t t = 0; t < taps; ++t) total += sums[t];
    const float offset = (args->bias ? args->bias[o] : 0.0f) - args->beta_sum * total;
    for (int64_t j = 0; j < args->classes_w; ++j) {
      for (int64_t i = 0; i < args->classes_h; ++i) {
        float valid = 0.0f;
        for (int64_t y = args->first_h[i]; y < args->last_h[i]; ++y) {
          for (int64_t x = args->first_w[j]; x < args->last_w[j]; ++x) valid += sums[y * args->kernel_w + x];
        }
        args->base[(i * args->classes_w + j) * args->cols + o] = offset + (args->constant + args->beta_sum) * valid;
      }
    }
  }
  return ABCFX_OK;
}
