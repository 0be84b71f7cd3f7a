// Any machine: every value is read and quantized once, its bits go to the words of all planes.
#include "scalar.h"

extern "C" int abcfx_pack_portable(const abcfx_pack_args* args) {
  if (!valid(*args)) return ABCFX_BAD_SHAPE;
  const Job job = job_of(*args);
  return for_each_line(job, [&](const float* src, uint64_t* dst) {
    for (int64_t x = args->pixel_begin; x < args->pixel_end; ++x) {
      for_each_word(job, [&](int64_t channel, int64_t count, int64_t place) {
        const float* values = src + x * args->stride_w + channel * args->stride_c;
        uint64_t words[ABCFX_MAX_BASES] = {};
        for (int64_t b = 0; b < count; ++b) {
          const unsigned minus = ~code_of(job.levels, values[b * args->stride_c]);
          for (int64_t q = 0; q < args->planes; ++q) words[q] |= (uint64_t)(minus >> q & 1) << b;
        }
        for (int64_t q = 0; q < args->planes; ++q) dst[q * job.plane_step + x * job.pixel + place] = words[q];
      });
    }
  });
}
