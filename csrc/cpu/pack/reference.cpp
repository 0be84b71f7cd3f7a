// One bit at a time, straight from the contract in abcfx/pack.h.
#include <type_traits>

#include "scalar.h"

template <class T>
static int pack(const Job& job) {
  const abcfx_pack_args& args = *job.args;
  return for_each_run(job, [&](int64_t from, uint64_t* dst, int64_t lines) {
    for (int64_t y = 0; y < lines; ++y, from += args.stride_h, dst += job.line_step) {
      const T* src = (const T*)args.src + from;
      for (int64_t q = 0; q < args.planes; ++q) {
        for (int64_t x = args.pixel_begin; x < args.pixel_end; ++x) {
          for_each_word(job, [&](int64_t channel, int64_t count, int64_t place) {
            uint64_t word = 0;
            for (int64_t b = 0; b < count; ++b) {
              const float value = widen(src[x * args.stride_w + (channel + b) * args.stride_c]);
              const unsigned code = code_of(job.levels, with_affine(job, value, channel + b));
              word |= (uint64_t)(~code >> q & 1) << b;
            }
            dst[q * job.plane_step + x * job.pixel + place] = word;
          });
        }
      }
    }
  });
}

extern "C" int abcfx_pack_reference(const abcfx_pack_args* args) {
  if (!valid(*args)) return ABCFX_BAD_SHAPE;
  const Job job = job_of(*args);
  return with_type(job, [&](auto type) { return pack<std::remove_cvref_t<decltype(*type)>>(job); });
}
