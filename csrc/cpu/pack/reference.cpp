// One bit at a time, straight from the contract in abcfx/pack.h.
#include "scalar.h"

extern "C" int abcfx_pack_reference(const abcfx_pack_args* args) {
  if (!valid(*args)) return ABCFX_BAD_SHAPE;
  const Job job = job_of(*args);
  return for_each_line(job, [&](const float* src, uint64_t* dst) {
    for (int64_t q = 0; q < args->planes; ++q) {
      for (int64_t x = args->pixel_begin; x < args->pixel_end; ++x) {
        for_each_word(job, [&](int64_t channel, int64_t count, int64_t place) {
          uint64_t word = 0;
          for (int64_t b = 0; b < count; ++b) {
            const unsigned code = code_of(job.levels, src[x * args->stride_w + (channel + b) * args->stride_c]);
            word |= (uint64_t)(~code >> q & 1) << b;
          }
          dst[q * job.plane_step + x * job.pixel + place] = word;
        });
      }
    }
  });
}
