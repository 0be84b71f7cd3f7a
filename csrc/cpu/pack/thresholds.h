#pragma once
#include "scalar.h"

// Exact thresholds. Each step of a code is a comparison: subtraction, multiplication by a number that is not negative,
// and rounding are monotone in f32 too, so "code >= k" holds from some value on. The smallest such value is found once
// per job; comparing with it is the same as computing the code, and costs one instruction instead of four.

/// Values of a type in order, as integers: the magnitude's bits with the sign. Both zeros are 0, infinities the ends.
template <class T>
static inline float value_of_key(int32_t key) {
  const uint32_t magnitude = (uint32_t)(key < 0 ? -key : key);
  T value;
  if constexpr (sizeof(T) == 4) {
    value = {float_of_bits(magnitude)};
  } else {
    value = {(uint16_t)magnitude};
  }
  return key < 0 ? -widen(value) : widen(value);
}

/// A key near this value: where a search starts, so it need not be exact.
template <class T>
static inline int32_t key_near(float value) {
  const uint32_t infinite = T::INFINITE, bits = bits_of_float(value) & 0x7fffffff;
  uint32_t magnitude = bits;
  if (sizeof(T) == 2) magnitude = bits >> 16;
  if (infinite == F16::INFINITE) magnitude = bits < (112u << 23) ? 0 : (bits - (112u << 23)) >> 13;
  if (magnitude > infinite) magnitude = infinite;
  return value < 0 ? -(int32_t)magnitude : (int32_t)magnitude;
}

/// The smallest key whose value satisfies `holds`, which is false up to some value and true from there on; INFINITE + 1
/// if there is none. Steps that double, from `start`, then halves.
template <class T, class Holds>
static inline int32_t first_key(int32_t start, const Holds& holds) {
  const int64_t top = (int64_t)T::INFINITE + 1, bottom = -(int64_t)T::INFINITE;
  const auto at = [&](int64_t key) { return key >= top || (key >= bottom && holds(value_of_key<T>((int32_t)key))); };
  int64_t no = start, yes = start, step = 1;  // `no` is below the answer, `yes` is not
  if (at(start)) {
    for (no = start - step; at(no); no -= step) yes = no, step *= 2;
  } else {
    for (yes = start + step; !at(yes); yes += step) no = yes, step *= 2;
  }
  while (yes - no > 1) {
    const int64_t middle = no + (yes - no) / 2;
    (at(middle) ? yes : no) = middle;
  }
  return (int32_t)yes;
}

/// Key of the smallest value whose code is at least k; needs a scale that is not negative.
template <class T>
static inline int32_t first_key_of_code(const Levels& levels, unsigned k) {
  const float guess = levels.shift + ((float)k - 0.5f) / levels.inverse;
  return first_key<T>(key_near<T>(guess), [&](float x) { return code_of(levels, x) >= k; });
}

/// Key of the smallest value at or above the thermometer threshold of plane q.
template <class T>
static inline int32_t first_key_of_plane(const Levels& levels, int q) {
  const float threshold = levels.threshold[q];
  return first_key<T>(key_near<T>(threshold), [=](float x) { return x >= threshold; });
}

static inline bool monotone(const Levels& levels) { return !(levels.inverse < 0.0f); }

/// f32 threshold of plane q of thermometer levels, or of the one plane of coded ones; NaN where no value reaches it.
static inline float threshold_of(const Levels& levels, int q) {
  if (!levels.coded) return levels.threshold[q];
  const int32_t key = first_key_of_code<F32>(levels, 1);
  return key > (int32_t)F32::INFINITE ? NAN : value_of_key<F32>(key);
}
