// AVX2 has no vector popcount: each byte is looked up by nibbles (vpshufb), byte counters collect up to 31 words and
// are then added into 64-bit counts (vpsadbw). Two ymm are the eight channels of a block.
#include <immintrin.h>

#include "window.h"

#if !defined(__AVX2__) || !defined(__FMA__)
#error "compile this file with -mavx2 -mfma"
#endif

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

namespace {

constexpr int LANES = ABCFX_LANES;
constexpr int MOST_ROWS = 3;  ///< 3 x 2 byte counters, 2 weight vectors, table and mask fit in 16 registers
constexpr int FLUSH = 31;     ///< a byte gains at most 8 per word: 31 * 8 = 248 fits in eight bits, 32 * 8 does not
constexpr int CHUNK = 48;     ///< output pixels whose pointers are made once

/// counts[r][half] = popcount(a[r] ^ w) over a window, r < ROWS, four channels per ymm.
template <int ROWS>
inline void count_windows(const Window& window, const uint64_t* const a[ROWS], const uint64_t* w,
                          __m256i counts[ROWS][2]) {
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,
                                         0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i nibble = _mm256_set1_epi8(15), zero = _mm256_setzero_si256();
  __m256i bytes[ROWS][2];
  UNROLL for (int r = 0; r < ROWS; ++r) {
    UNROLL for (int h = 0; h < 2; ++h) counts[r][h] = bytes[r][h] = zero;
  }
  int64_t left = FLUSH;
  for (int64_t y = 0; y < window.lines; ++y) {
    for (int64_t x = 0; x < window.segments; ++x) {
      const int64_t offset = y * window.line_step + x * window.segment_step;
      for (int64_t i = 0; i < window.run; ++i, w += LANES) {
        const __m256i columns[2] = {_mm256_loadu_si256((const __m256i*)w), _mm256_loadu_si256((const __m256i*)(w + 4))};
        UNROLL for (int r = 0; r < ROWS; ++r) {
          const __m256i bits = _mm256_set1_epi64x((int64_t)a[r][offset + i]);
          UNROLL for (int h = 0; h < 2; ++h) {
            const __m256i v = _mm256_xor_si256(bits, columns[h]);
            const __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(v, nibble));
            const __m256i high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi32(v, 4), nibble));
            bytes[r][h] = _mm256_add_epi8(bytes[r][h], _mm256_add_epi8(low, high));
          }
        }
        if (--left > 0) continue;
        left = FLUSH;
        UNROLL for (int r = 0; r < ROWS; ++r) {
          UNROLL for (int h = 0; h < 2; ++h) {
            counts[r][h] = _mm256_add_epi64(counts[r][h], _mm256_sad_epu8(bytes[r][h], zero));
            bytes[r][h] = zero;
          }
        }
      }
    }
  }
  UNROLL for (int r = 0; r < ROWS; ++r) {
    UNROLL for (int h = 0; h < 2; ++h) {
      counts[r][h] = _mm256_add_epi64(counts[r][h], _mm256_sad_epu8(bytes[r][h], zero));
    }
  }
}

/// depth - 2 count of eight channels as floats. Counts are below 2^31: the low dwords of the 64-bit lanes are gathered.
inline __m256 products_of(const __m256i counts[2], __m256i depth) {
  const __m256 low = _mm256_castsi256_ps(counts[0]), high = _mm256_castsi256_ps(counts[1]);
  const __m256i mixed = _mm256_castps_si256(_mm256_shuffle_ps(low, high, _MM_SHUFFLE(2, 0, 2, 0)));
  const __m256i count = _mm256_permute4x64_epi64(mixed, _MM_SHUFFLE(3, 1, 2, 0));
  return _mm256_cvtepi32_ps(_mm256_sub_epi32(depth, _mm256_slli_epi32(count, 1)));
}

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
  const __m256i depth = _mm256_set1_epi32((int)args.depth);
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i lanes = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)block.count), lane);
  __m256 sum[ROWS];
  for (int r = 0; r < ROWS; ++r) sum[r] = _mm256_maskload_ps(rows.base[row + r] + block.channel, lanes);
  for (int64_t p = 0; p < args.weight_bases; ++p) {
    const uint64_t* w = args.w + (block_index * args.weight_bases + p) * window.words * LANES;
    __m256 inner[ROWS];
    for (int r = 0; r < ROWS; ++r) inner[r] = _mm256_setzero_ps();
    for (int64_t q = 0; q < args.activation_bases; ++q) {
      const uint64_t* a[ROWS];
      for (int r = 0; r < ROWS; ++r) a[r] = rows.a[row + r] + block.group * args.words + q * window.plane_step;
      __m256i counts[ROWS][2];
      count_windows<ROWS>(window, a, w, counts);
      const __m256 beta = _mm256_set1_ps(args.beta[q]);
      for (int r = 0; r < ROWS; ++r) inner[r] = _mm256_fmadd_ps(beta, products_of(counts[r], depth), inner[r]);
    }
    const __m256 alpha = _mm256_maskload_ps(args.alpha + p * channels + block.channel, lanes);
    for (int r = 0; r < ROWS; ++r) sum[r] = _mm256_fmadd_ps(alpha, inner[r], sum[r]);
  }
  for (int64_t r = 0; r < ROWS; ++r) {
    float* dst = args.dst + (begin + row + r) * channels + block.channel;
    if (block.count == LANES) {  // a masked store is microcode on some processors
      _mm256_storeu_ps(dst, sum[r]);
    } else {
      _mm256_maskstore_ps(dst, lanes, sum[r]);
    }
  }
}

}  // namespace

extern "C" int abcfx_bgemm_avx2(const abcfx_bgemm_args* args) {
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
