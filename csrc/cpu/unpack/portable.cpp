// Any machine: a byte of bits becomes eight bytes by a table, planes become codes, codes become values by another.
#include <string.h>

#include "walk.h"

namespace {

/// Byte i is bit i of the index, least significant first.
struct Spread {
  uint64_t bytes[256];

  constexpr Spread() : bytes() {
    for (int index = 0; index < 256; ++index) {
      for (int i = 0; i < 8; ++i) bytes[index] |= (uint64_t)(index >> i & 1) << 8 * i;
    }
  }
};
constexpr Spread spread;

struct Portable {
  const Job& job;

  static bool takes(int64_t) { return false; }
  void pixels(const uint64_t*, int64_t, float*) const {}

  void word(const uint64_t* src, int64_t count, float* dst) const {
    const int64_t planes = job.args->planes;
    for (int64_t first = 0; first < count; first += 8) {
      uint64_t codes = 0;
      for (int64_t q = 0; q < planes; ++q) codes |= spread.bytes[~src[q * job.plane_step] >> first & 255] << q;
      const int64_t left = count - first < 8 ? count - first : 8;
      for (int64_t c = 0; c < left; ++c) dst[first + c] = job.value[codes >> 8 * c & 255];
    }
  }
};

}  // namespace

extern "C" int abcfx_unpack_portable(const abcfx_unpack_args* args) {
  if (!valid(*args)) return ABCFX_BAD_SHAPE;
  const Job job = job_of(*args);
  unpack_lines(job, Portable{job});
  return ABCFX_OK;
}
