#pragma once
#include <math.h>

#include "image.h"

/// The code of one value (see Levels). A NaN fails every comparison: code 0. Clamping before rounding is the same as
/// after, the bounds being integers, and keeps the value in the range of an int.
static inline unsigned code_of(const Levels& levels, float x) {
  if (levels.coded) {
    const float t = (x - levels.shift) * levels.inverse;
    const float low = t > 0.0f ? t : 0.0f;
    return (unsigned)rintf(low < levels.top ? low : levels.top);
  }
  unsigned code = 0;
  for (int q = 0; q < levels.planes; ++q) code |= (unsigned)(x >= levels.threshold[q]) << q;
  return code;
}
