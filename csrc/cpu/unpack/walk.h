#pragma once
#include "abcfx/unpack.h"

// What the unpack variants share. Everything is static, for the reason given in bgemm/window.h.

struct Job {
  const abcfx_unpack_args* args;
  int64_t words;             ///< of one group
  int64_t pixel;             ///< words of one pixel: groups * words
  int64_t plane_step;        ///< words from a plane to the next
  bool coded;
  float scale, shift;        ///< coded
  alignas(32) float value[1 << ABCFX_MAX_BASES];  ///< of each code: bit q set <=> plane q is +1
};

static inline bool valid(const abcfx_unpack_args& args) {
  return args.planes >= 1 && args.planes <= ABCFX_MAX_BASES && args.groups >= 1 && args.channels >= 0 &&
         args.images >= 0 && args.height >= 0 && args.width >= 0 && args.top >= 0 && args.left >= 0 &&
         args.bottom >= 0 && args.right >= 0 && args.line_begin >= 0 && args.line_end <= args.images * args.height &&
         args.pixel_begin >= 0 && args.pixel_end <= args.width &&
         (args.levels == ABCFX_CODED || args.levels == ABCFX_THERMOMETER);
}

/// x̂ of a code, in the order and with the roundings of abcfx.quant.activations.quantize.
static inline float value_of(const abcfx_unpack_args& args, int code) {
  if (args.levels == ABCFX_CODED) {
    const float steps = (float)code * args.scale[0];
    return steps + args.shift[0];
  }
  float total = code & 1 ? args.scale[0] : -args.scale[0];
  for (int64_t q = 1; q < args.planes; ++q) total += code >> q & 1 ? args.scale[q] : -args.scale[q];
  return total;
}

static inline Job job_of(const abcfx_unpack_args& args) {
  Job job = {};
  job.args = &args;
  job.words = (args.channels + 63) / 64;
  job.pixel = args.groups * job.words;
  job.plane_step = (args.left + args.width + args.right) * job.pixel;
  job.coded = args.levels == ABCFX_CODED;
  job.scale = args.scale[0];
  job.shift = args.shift[0];
  for (int code = 0; code < 1 << args.planes; ++code) job.value[code] = value_of(args, code);
  return job;
}

/// Calls kernel.word(src, count, dst) for every word of every pixel: its plane 0, its channels (1 to 64), where the
/// value of the first goes. Where pixels are one word each, of channels that kernel.takes: kernel.pixels(src, pixels,
/// dst) for those of a line.
template <class Kernel>
static void unpack_lines(const Job& job, const Kernel& kernel) {
  const abcfx_unpack_args& args = *job.args;
  const bool together = args.groups == 1 && Kernel::takes(args.channels);
  const int64_t padded_h = args.top + args.height + args.bottom, channels = args.groups * args.channels;
  for (int64_t line = args.line_begin; line < args.line_end; ++line) {
    const int64_t padded = line / args.height * padded_h + args.top + line % args.height;
    const uint64_t* src = args.src + padded * args.planes * job.plane_step + args.left * job.pixel;
    float* dst = args.dst + line * args.width * channels;
    if (together) {
      kernel.pixels(src + args.pixel_begin, args.pixel_end - args.pixel_begin, dst + args.pixel_begin * channels);
      continue;
    }
    for (int64_t x = args.pixel_begin; x < args.pixel_end; ++x) {
      for (int64_t g = 0; g < args.groups; ++g) {
        const uint64_t* from = src + x * job.pixel + g * job.words;
        float* to = dst + x * channels + g * args.channels;
        for (int64_t c = 0; c < args.channels; c += 64) {
          kernel.word(from + c / 64, args.channels - c < 64 ? args.channels - c : 64, to + c);
        }
      }
    }
  }
}
