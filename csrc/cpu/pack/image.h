#pragma once
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "abcfx/pack.h"

// What the pack variants share. Everything is static, for the reason given in bgemm/window.h.

/// Both kinds of levels become a code of `planes` bits: bit q set <=> plane q is +1 <=> its packed bit is 0.
struct Levels {
  bool coded;
  int planes;
  float shift, inverse, top;         ///< coded: o, 1 / scale, 2^planes - 1
  float threshold[ABCFX_MAX_BASES];  ///< thermometer: 0.5 - shift[q]
};

struct Job {
  const abcfx_pack_args* args;
  Levels levels;
  int64_t group_channels, words;  ///< of one group
  int64_t pixel;                  ///< words of one pixel: groups * words
  int64_t plane_step;             ///< words from a plane to the next: padded width * pixel
  int64_t line_step;              ///< words from a padded line to the next: all planes
  float low, high;                ///< of the clip after an affine; infinite without one
};

static inline bool valid(const abcfx_pack_args& args) {
  return args.planes >= 1 && args.planes <= ABCFX_MAX_BASES && args.groups >= 1 && args.channels >= 0 &&
         args.channels % args.groups == 0 && args.images >= 0 && args.height >= 0 && args.width >= 0 &&
         args.top >= 0 && args.left >= 0 && args.bottom >= 0 && args.right >= 0 && args.line_begin >= 0 &&
         args.line_end <= args.images * (args.height + args.top + args.bottom) && args.pixel_begin >= 0 &&
         args.pixel_begin <= args.pixel_end && args.pixel_end <= args.width &&
         (args.levels == ABCFX_CODED || args.levels == ABCFX_THERMOMETER) &&
         (args.dtype == ABCFX_F32 || args.dtype == ABCFX_BF16 || args.dtype == ABCFX_F16) &&
         (args.gain == nullptr) == (args.offset == nullptr);
}

static inline Job job_of(const abcfx_pack_args& args) {
  Job job = {};
  job.args = &args;
  job.levels.coded = args.levels == ABCFX_CODED;
  job.levels.planes = (int)args.planes;
  if (job.levels.coded) {
    job.levels.shift = args.shift[0];
    job.levels.inverse = 1.0f / args.scale[0];
    job.levels.top = (float)((1 << args.planes) - 1);
  } else {
    for (int64_t q = 0; q < args.planes; ++q) job.levels.threshold[q] = 0.5f - args.shift[q];
  }
  job.group_channels = args.channels / args.groups;
  job.words = (job.group_channels + 63) / 64;
  job.pixel = args.groups * job.words;
  job.plane_step = (args.left + args.width + args.right) * job.pixel;
  job.line_step = args.planes * job.plane_step;
  const bool clips = args.low < args.high;
  job.low = clips && args.low > -FLT_MAX ? args.low : -INFINITY;
  job.high = clips && args.high < FLT_MAX ? args.high : INFINITY;
  return job;
}

/// Zeroes what padding of this line belongs to the job's range; false if the line is nothing but padding.
static inline bool pad_line(const Job& job, int64_t y, uint64_t* dst) {
  const abcfx_pack_args& args = *job.args;
  const bool first = args.pixel_begin == 0, last = args.pixel_end == args.width;
  if (y < 0 || y >= args.height) {
    if (first) memset(dst, 0, sizeof(uint64_t) * job.line_step);
    return false;
  }
  for (int64_t q = 0; q < args.planes; ++q) {
    uint64_t* plane = dst + q * job.plane_step;
    if (first) memset(plane, 0, sizeof(uint64_t) * args.left * job.pixel);
    if (last) memset(plane + (args.left + args.width) * job.pixel, 0, sizeof(uint64_t) * args.right * job.pixel);
  }
  return true;
}

/// Zeroes padding and calls interior(from, dst, lines) for lines with pixels: `from` is the element of channel 0 of the
/// first pixel (pixel 0, also if the range starts later), dst the first word of plane 0 of that pixel, and `lines` the
/// number of lines. It is more than one only where all their pixels are wanted and lie `stride_w` apart from the first
/// to the last, in src: small images (7 x 7) are then as long as a block of pixels wants.
template <class Interior>
static int for_each_run(const Job& job, const Interior& interior) {
  const abcfx_pack_args& args = *job.args;
  if (job.pixel == 0) return ABCFX_OK;  // without channels there is no word, and dst may be NULL
  const int64_t padded_h = args.top + args.height + args.bottom;
  const bool whole = args.pixel_begin == 0 && args.pixel_end == args.width;
  const bool joined = whole && args.stride_h == args.width * args.stride_w;
  for (int64_t line = args.line_begin; line < args.line_end;) {
    const int64_t n = line / padded_h, y = line % padded_h - args.top;
    uint64_t* dst = args.dst + line * job.line_step;
    int64_t lines = 1;
    const bool has_pixels = pad_line(job, y, dst);
    if (has_pixels && joined) {
      for (; line + lines < args.line_end && y + lines < args.height; ++lines) {
        pad_line(job, y + lines, dst + lines * job.line_step);
      }
    }
    if (has_pixels) interior(n * args.stride_n + y * args.stride_h, dst + args.left * job.pixel, lines);
    line += lines;
  }
  return ABCFX_OK;
}

/// Calls visit(channel, count, word) for every word of a pixel: its first channel over all groups, how many channels it
/// holds (1 to 64), and its place in the pixel.
template <class Visit>
static inline void for_each_word(const Job& job, const Visit& visit) {
  for (int64_t g = 0; g < job.args->groups; ++g) {
    for (int64_t i = 0; i < job.words; ++i) {
      const int64_t left = job.group_channels - 64 * i;
      visit(g * job.group_channels + 64 * i, left < 64 ? left : 64, g * job.words + i);
    }
  }
}

static inline uint64_t low_bits(int64_t count) { return count >= 64 ? ~(uint64_t)0 : ((uint64_t)1 << count) - 1; }
