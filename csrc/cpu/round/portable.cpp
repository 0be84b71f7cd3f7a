// Any machine, straight from the contract in abcfx/round.h.
#include <math.h>

#include "walk.h"

namespace {

template <bool SIGNS>
struct Round {
  Keys keys;
  Range range;

  float code(float t, float u) const {
    if (SIGNS) return u < (t + 1.0f) * 0.5f ? 1.0f : -1.0f;
    const float floor = floorf(t), k = floor + (u < t - floor ? 1.0f : 0.0f);
    return k >= range.low ? (k < range.high ? k : range.high) : range.low;
  }

  void operator()(const float* src, const float* gain, float inverse, uint32_t index, int64_t count,
                  uint16_t* dst) const {
    for (int64_t c = 0; c < count; ++c) {
      const uint32_t random = mixed(index + (uint32_t)c + keys.first, keys.second);
      const float k = code(src[c] * gain[c] * inverse, (float)(random >> 8) * 0x1p-24f);
      uint32_t bits;
      memcpy(&bits, &k, sizeof(bits));
      dst[c] = (uint16_t)(bits >> 16);
    }
  }
};

}  // namespace

extern "C" int abcfx_round_portable(const abcfx_round_args* args) {
  if (!valid(*args)) return ABCFX_BAD_SHAPE;
  const Keys keys(args->seed);
  const Range range(args->planes);
  return args->planes == 1 ? walk(*args, Round<true>{keys, range}) : walk(*args, Round<false>{keys, range});
}
