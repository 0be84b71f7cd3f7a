#pragma once
#include <stdint.h>

#include "abcfx/pack.h"

#ifdef __cplusplus
extern "C" {
#endif

/// What the straight-through adjoint of the activation quantizer must remember of its input, in bits.
///
///   coded        K = 2^planes - 1, t = (x - shift[0]) * (1 / scale[0])
///                plane 0    inside: 0 <= t <= K
///                plane 1    inside ? (rint(t) - t) + 0.5 > u(element) : t > K
///   thermometer  plane q            edges[q] <= x <= edges[planes + q]
///                plane planes + q   NOT x >= 0.5 - shift[q]
///
/// f32 in exactly this order, rint to even, a NaN compares false; u is the dither of csrc/cpu/window/dither.h. So the
/// bits equal those of abcfx.quant.ste.activation_windows.
///
/// src   `dtype`[count]
/// dst   [2 (coded) or 2 planes (thermometer)][ceil(count / 8)], bit b of byte i is element 8 i + b; tail bits are 0
/// Works on blocks [block_begin, block_end) of ABCFX_WINDOW_BLOCK elements each: callers own the threads.
struct abcfx_window_args {
  const void* src;
  uint8_t* dst;
  const float* scale;
  const float* shift;
  const float* edges;  ///< [2][planes]: least and greatest x of the window of each thermometer plane; coded: not read
  int64_t dtype;   ///< enum abcfx_dtype
  int64_t levels;  ///< enum abcfx_levels
  int64_t planes;  ///< 1 to 8
  int64_t count;
  int64_t block_begin, block_end;
};

#define ABCFX_WINDOW_BLOCK 256

typedef int (*abcfx_window_fn)(const struct abcfx_window_args* args);

/// As in abcfx/bgemm.h.
ABCFX_API abcfx_window_fn abcfx_window_choose(void);
ABCFX_API abcfx_window_fn abcfx_window_find(const char* name);
ABCFX_API const char* abcfx_window_chosen_name(void);
ABCFX_API const char* abcfx_window_variant(int index);
ABCFX_API const char* abcfx_window_missing(int index);

#ifdef __cplusplus
}
#endif
