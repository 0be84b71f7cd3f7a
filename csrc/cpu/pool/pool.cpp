#include "abcfx/pool.h"

#include <string.h>

#include <algorithm>

namespace {

/// The larger of two codes in each of 64 channels; a and b are planes, bit 0 meaning +1.
inline void keep_larger(uint64_t* best, const uint64_t* other, int64_t other_step, int64_t planes, bool coded) {
  if (!coded) {
    for (int64_t q = 0; q < planes; ++q) best[q] &= other[q * other_step];
    return;
  }
  uint64_t larger = 0, undecided = ~(uint64_t)0;  // where `other` is larger; where all planes so far are equal
  for (int64_t q = planes - 1; q >= 0; --q) {
    const uint64_t differ = best[q] ^ other[q * other_step];
    larger |= undecided & differ & best[q];  // best is -1 here, so other is +1
    undecided &= ~differ;
  }
  for (int64_t q = 0; q < planes; ++q) best[q] ^= (best[q] ^ other[q * other_step]) & larger;
}

bool valid(const abcfx_pool_args& a) {
  return a.planes >= 1 && a.planes <= ABCFX_MAX_BASES && a.kernel_h >= 1 && a.kernel_w >= 1 && a.stride_h >= 1 &&
         a.stride_w >= 1 && a.top >= 0 && a.left >= 0 && a.top < a.kernel_h && a.left < a.kernel_w &&
         (a.out_h - 1) * a.stride_h - a.top < a.height && (a.out_w - 1) * a.stride_w - a.left < a.width &&
         a.line_begin >= 0 && a.line_end <= a.images * a.out_h &&
         (a.levels == ABCFX_CODED || a.levels == ABCFX_THERMOMETER);
}

}  // namespace

int abcfx_pool(const abcfx_pool_args* args) {
  const abcfx_pool_args& a = *args;
  if (!valid(a)) return ABCFX_BAD_SHAPE;
  const bool coded = a.levels == ABCFX_CODED;
  const int64_t src_plane = (a.width + 2 * a.pad_w) * a.words, src_line = a.planes * src_plane;
  const int64_t dst_plane = (a.out_w + 2 * a.out_pad_w) * a.words, dst_line = a.planes * dst_plane;
  const int64_t out_padded = a.out_h + 2 * a.out_pad_h, padded = a.height + 2 * a.pad_h;
  for (int64_t line = a.line_begin; line < a.line_end; ++line) {
    const int64_t image = line / a.out_h, oy = line % a.out_h;
    uint64_t* dst = a.dst + (image * out_padded + a.out_pad_h + oy) * dst_line;
    if (oy == 0) memset(dst - a.out_pad_h * dst_line, 0, sizeof(uint64_t) * a.out_pad_h * dst_line);
    if (oy == a.out_h - 1) memset(dst + dst_line, 0, sizeof(uint64_t) * a.out_pad_h * dst_line);
    for (int64_t q = 0; q < a.planes; ++q) {
      memset(dst + q * dst_plane, 0, sizeof(uint64_t) * a.out_pad_w * a.words);
      memset(dst + q * dst_plane + (a.out_pad_w + a.out_w) * a.words, 0, sizeof(uint64_t) * a.out_pad_w * a.words);
    }
    const int64_t y0 = std::max<int64_t>(oy * a.stride_h - a.top, 0);
    const int64_t y1 = std::min(oy * a.stride_h - a.top + a.kernel_h, a.height);
    for (int64_t ox = 0; ox < a.out_w; ++ox) {
      const int64_t x0 = std::max<int64_t>(ox * a.stride_w - a.left, 0);
      const int64_t x1 = std::min(ox * a.stride_w - a.left + a.kernel_w, a.width);
      uint64_t* to = dst + (a.out_pad_w + ox) * a.words;
      for (int64_t w = 0; w < a.words; ++w) {
        uint64_t best[ABCFX_MAX_BASES];
        bool first = true;
        for (int64_t y = y0; y < y1; ++y) {
          const uint64_t* row = a.src + (image * padded + a.pad_h + y) * src_line + a.pad_w * a.words + w;
          for (int64_t x = x0; x < x1; ++x) {
            const uint64_t* from = row + x * a.words;
            if (first) {
              for (int64_t q = 0; q < a.planes; ++q) best[q] = from[q * src_plane];
              first = false;
            } else {
              keep_larger(best, from, src_plane, a.planes, coded);
            }
          }
        }
        for (int64_t q = 0; q < a.planes; ++q) to[q * dst_plane + w] = best[q];
      }
    }
  }
  return ABCFX_OK;
}
