// NEON counts the bits of bytes in one instruction (cnt). Byte counters collect up to 31 words and are then added
// pairwise, three times, into 64-bit counts (uadalp). Four q registers are the eight channels of a block.
#include <arm_neon.h>

#include "window.h"

#if !defined(__aarch64__)
#error "this file is for aarch64"
#endif

namespace {

constexpr int LANES = ABCFX_LANES;
constexpr int PARTS = 4;      ///< q registers of one block: two channels each
constexpr int MOST_ROWS = 4;  ///< 4 x 4 byte counters, 4 weight vectors and temporaries fit in 32 registers
constexpr int FLUSH = 31;     ///< a byte gains at most 8 per word: 31 * 8 = 248 fits in eight bits, 32 * 8 does not
constexpr int CHUNK = 48;     ///< output pixels whose pointers are made once

template <int ROWS>
inline void flush(uint8x16_t bytes[ROWS][PARTS], uint64x2_t counts[ROWS][PARTS]) {
  for (int r = 0; r < ROWS; ++r) {
    for (int h = 0; h < PARTS; ++h) {
      counts[r][h] = vpadalq_u32(counts[r][h], vpaddlq_u16(vpaddlq_u8(bytes[r][h])));
      bytes[r][h] = vdupq_n_u8(0);
    }
  }
}

/// counts[r][part] = popcount(a[r] ^ w) over a window, r < ROWS, two channels per register.
template <int ROWS>
inline void count_windows(const Window& window, const uint64_t* const a[ROWS], const uint64_t* w,
                          uint64x2_t counts[ROWS][PARTS]) {
  uint8x16_t bytes[ROWS][PARTS];
  for (int r = 0; r < ROWS; ++r) {
    for (int h = 0; h < PARTS; ++h) {
      counts[r][h] = vdupq_n_u64(0);
      bytes[r][h] = vdupq_n_u8(0);
    }
  }
  int64_t left = FLUSH;
  for (int64_t y = 0; y < window.lines; ++y) {
    for (int64_t x = 0; x < window.segments; ++x) {
      const int64_t offset = y * window.line_step + x * window.segment_step;
      for (int64_t i = 0; i < window.run; ++i, w += LANES) {
        uint64x2_t columns[PARTS];
        for (int h = 0; h < PARTS; ++h) columns[h] = vld1q_u64(w + 2 * h);
        for (int r = 0; r < ROWS; ++r) {
          const uint64x2_t bits = vdupq_n_u64(a[r][offset + i]);
          for (int h = 0; h < PARTS; ++h) {
            bytes[r][h] = vaddq_u8(bytes[r][h], vcntq_u8(vreinterpretq_u8_u64(veorq_u64(bits, columns[h]))));
          }
        }
        if (--left > 0) continue;
        left = FLUSH;
        flush<ROWS>(bytes, counts);
      }
    }
  }
  flush<ROWS>(bytes, counts);
}

/// depth - 2 count of the four channels of two registers as floats. Counts are below 2^31: low dwords are enough.
inline float32x4_t products_of(uint64x2_t low, uint64x2_t high, int32x4_t depth) {
  const int32x4_t count = vreinterpretq_s32_u32(vcombine_u32(vmovn_u64(low), vmovn_u64(high)));
  return vcvtq_f32_s32(vsubq_s32(depth, vshlq_n_s32(count, 1)));
}

/// Up to eight floats, four per register; reads nothing past `count`.
struct Eight {
  float32x4_t half[2];

  static Eight load(const float* src, int64_t count) {
    if (count == LANES) return Eight{{vld1q_f32(src), vld1q_f32(src + 4)}};
    float values[LANES] = {};
    for (int64_t lane = 0; lane < count; ++lane) values[lane] = src[lane];
    return Eight{{vld1q_f32(values), vld1q_f32(values + 4)}};
  }

  void store(float* dst, int64_t count) const {
    if (count == LANES) {
      vst1q_f32(dst, half[0]);
      vst1q_f32(dst + 4, half[1]);
      return;
    }
    float values[LANES];
    vst1q_f32(values, half[0]);
    vst1q_f32(values + 4, half[1]);
    for (int64_t lane = 0; lane < count; ++lane) dst[lane] = values[lane];
  }
};

struct Rows {
  const uint64_t* a[CHUNK];
  const float* base[CHUNK];
};

/// The outputs of ROWS pixels and one block of channels.
template <int ROWS>
inline void tile(const abcfx_bgemm_args& args, const Window& window, const Rows& rows, int64_t begin, int64_t row,
                 int64_t block_index) {
  const Block block = block_of(args, block_index);
  const int64_t channels = args.groups * args.cols;
  const int32x4_t depth = vdupq_n_s32((int32_t)args.depth);
  Eight sum[ROWS];
  for (int r = 0; r < ROWS; ++r) sum[r] = Eight::load(rows.base[row + r] + block.channel, block.count);
  for (int64_t p = 0; p < args.weight_bases; ++p) {
    const uint64_t* w = args.w + (block_index * args.weight_bases + p) * window.words * LANES;
    Eight inner[ROWS];
    for (int r = 0; r < ROWS; ++r) inner[r].half[0] = inner[r].half[1] = vdupq_n_f32(0.0f);
    for (int64_t q = 0; q < args.activation_bases; ++q) {
      const uint64_t* a[ROWS];
      for (int r = 0; r < ROWS; ++r) a[r] = rows.a[row + r] + block.group * args.words + q * window.plane_step;
      uint64x2_t counts[ROWS][PARTS];
      count_windows<ROWS>(window, a, w, counts);
      const float32x4_t beta = vdupq_n_f32(args.beta[q]);
      for (int r = 0; r < ROWS; ++r) {
        for (int h = 0; h < 2; ++h) {
          const float32x4_t products = products_of(counts[r][2 * h], counts[r][2 * h + 1], depth);
          inner[r].half[h] = vfmaq_f32(inner[r].half[h], beta, products);
        }
      }
    }
    const Eight alpha = Eight::load(args.alpha + p * channels + block.channel, block.count);
    for (int r = 0; r < ROWS; ++r) {
      for (int h = 0; h < 2; ++h) sum[r].half[h] = vfmaq_f32(sum[r].half[h], alpha.half[h], inner[r].half[h]);
    }
  }
  for (int64_t r = 0; r < ROWS; ++r) {
    sum[r].store(args.dst + (begin + row + r) * channels + block.channel, block.count);
  }
}

}  // namespace

extern "C" int abcfx_bgemm_neon(const abcfx_bgemm_args* args) {
  if (!valid(*args)) return ABCFX_BAD_SHAPE;
  if (args->row_begin >= args->row_end || args->block_begin >= args->block_end) return ABCFX_OK;
  const Window window = window_of(*args);
  Rows rows;
  Cursor cursor = cursor_at(*args, args->row_begin);
  for (int64_t begin = args->row_begin; begin < args->row_end; begin += CHUNK) {
    const int64_t left = args->row_end - begin, count = left < CHUNK ? left : CHUNK;
    for (int64_t r = 0; r < count; ++r, advance(*args, cursor)) {
      rows.a[r] = window_base(*args, cursor);
      rows.base[r] = base_of(*args, cursor);
    }
    for (int64_t block = args->block_begin; block < args->block_end; ++block) {
      int64_t row = 0;
      for (; row + MOST_ROWS <= count; row += MOST_ROWS) tile<MOST_ROWS>(*args, window, rows, begin, row, block);
      for (; row < count; ++row) tile<1>(*args, window, rows, begin, row, block);
    }
  }
  return ABCFX_OK;
}
