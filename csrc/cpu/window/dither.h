#pragma once
#include <stdint.h>

/// u(i) = the upper 24 bits of this, times 2^-24: a fixed hash of the low 32 bits of an element's number. The other
/// home of it, with its source, is abcfx/quant/ste.py.
static constexpr uint32_t DITHER_FIRST = 0x7feb352d, DITHER_SECOND = 0x846ca68b;

static inline uint32_t dither_hash(uint32_t h) {
  h ^= h >> 16;
  h *= DITHER_FIRST;
  h ^= h >> 15;
  h *= DITHER_SECOND;
  return h ^ h >> 16;
}
