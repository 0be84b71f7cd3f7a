#pragma once
#include <math.h>

#include "image.h"

// The three element types as they lie in memory, and the code of one value. Static, as in image.h.

struct F32 {
  float value;
  static constexpr uint32_t INFINITE = 0x7f800000;  ///< bits of +infinity
};
struct Bf16 {
  uint16_t bits;
  static constexpr uint32_t INFINITE = 0x7f80;
};
struct F16 {
  uint16_t bits;
  static constexpr uint32_t INFINITE = 0x7c00;
};

static inline float float_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

static inline uint32_t bits_of_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

static inline float widen(F32 x) { return x.value; }
static inline float widen(Bf16 x) { return float_of_bits((uint32_t)x.bits << 16); }
static inline float widen(F16 x) {
  const uint32_t sign = (uint32_t)(x.bits & 0x8000) << 16, exponent = x.bits >> 10 & 31, fraction = x.bits & 0x3ff;
  if (exponent == 0) return (sign ? -1.0f : 1.0f) * (float)fraction * 0x1p-24f;  // zero or subnormal: exact in f32
  if (exponent == 31) return float_of_bits(sign | 0x7f800000 | fraction << 13);
  return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

/// A NaN fails both comparisons, and stays.
static inline float clipped(float x, float low, float high) {
  const float above = x < low ? low : x;
  return above > high ? high : above;
}

/// x, or clip(x * gain + offset) in two roundings (the build forbids contraction).
static inline float with_affine(const Job& job, float x, int64_t channel) {
  const abcfx_pack_args& args = *job.args;
  return args.gain ? clipped(x * args.gain[channel] + args.offset[channel], job.low, job.high) : x;
}

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

/// Calls f with a null pointer to the element type of the job, to choose a template by it.
template <class F>
static inline int with_type(const Job& job, const F& f) {
  if (job.args->dtype == ABCFX_BF16) return f((const Bf16*)nullptr);
  if (job.args->dtype == ABCFX_F16) return f((const F16*)nullptr);
  return f((const F32*)nullptr);
}
