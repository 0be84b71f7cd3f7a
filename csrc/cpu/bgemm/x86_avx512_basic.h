#pragma once
// The basic kernel: xor, popcount, add. Windows are read in place, through one pointer per row and plane.
#include "x86_avx512.h"

namespace {

/// dst = base + sum_p alpha_p (start + sum_q -2 beta_q acc_qp) for one pixel and the adjacent blocks b and b + 1, or b
/// alone: sixteen channels or eight, of which those in `lanes` exist.
template <int NQ, int MP, int VC>
inline __attribute__((always_inline)) void store_two(const Job& job, const __m512i (*acc)[VC], int b, __mmask16 lanes,
                                                     const float* alpha, const float* base, float* dst) {
  __m512 sum = _mm512_maskz_loadu_ps(lanes, base);
  UNROLL for (int p = 0; p < MP; ++p) {
    __m512 inner = _mm512_set1_ps(job.start);
    UNROLL for (int q = 0; q < NQ; ++q) {
      const __m512 value = floats_of(acc[q][b * MP + p], acc[q][(b + 1) * MP + p]);
      inner = _mm512_fmadd_ps(_mm512_set1_ps(job.minus2beta[job.q0 + q]), value, inner);
    }
    sum = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(lanes, alpha + p * job.channels), inner, sum);
  }
  _mm512_mask_storeu_ps(dst, lanes, sum);
}

template <int NQ, int MP, int VC>
inline __attribute__((always_inline)) void store_one(const Job& job, const __m512i (*acc)[VC], int b, __mmask8 lanes,
                                                     const float* alpha, const float* base, float* dst) {
  __m256 sum = _mm256_maskz_loadu_ps(lanes, base);
  UNROLL for (int p = 0; p < MP; ++p) {
    __m256 inner = _mm256_set1_ps(job.start);
    UNROLL for (int q = 0; q < NQ; ++q) {
      const __m256 value = _mm512_cvtepi64_ps(acc[q][b * MP + p]);
      inner = _mm256_fmadd_ps(_mm256_set1_ps(job.minus2beta[job.q0 + q]), value, inner);
    }
    sum = _mm256_fmadd_ps(_mm256_maskz_loadu_ps(lanes, alpha + p * job.channels), inner, sum);
  }
  _mm256_mask_storeu_ps(dst, lanes, sum);
}

/// acc = popcount - 2 * quarter of ROWS * NQ windows `a` and BLOCKS * MP columns from `w` on.
template <int VR, int MP, int BLOCKS>
inline __attribute__((always_inline)) void accumulate(const Job& job, const uint64_t* const (&a)[VR], const uint64_t* w,
                                                      __m512i (&acc)[VR][BLOCKS * MP]) {
  const Window& window = job.window;
  const int64_t w_plane = window.words * LANES, w_block = job.args->weight_bases * w_plane;
  const __m512i begin = _mm512_set1_epi64(-2 * job.quarter);
  UNROLL for (int r = 0; r < VR; ++r) {
    UNROLL for (int c = 0; c < BLOCKS * MP; ++c) acc[r][c] = begin;
  }
  for (int64_t y = 0; y < window.lines; ++y) {
    for (int64_t x = 0; x < window.segments; ++x) {
      const int64_t offset = y * window.line_step + x * window.segment_step;
      for (int64_t i = 0; i < window.run; ++i, w += LANES) {
        __m512i column[BLOCKS * MP];
        UNROLL for (int b = 0; b < BLOCKS; ++b) {
          UNROLL for (int p = 0; p < MP; ++p) column[b * MP + p] = _mm512_loadu_si512(w + b * w_block + p * w_plane);
        }
        UNROLL for (int r = 0; r < VR; ++r) {
          const __m512i bits = _mm512_set1_epi64((int64_t)a[r][offset + i]);
          UNROLL for (int c = 0; c < BLOCKS * MP; ++c) {
            acc[r][c] = _mm512_add_epi64(acc[r][c], _mm512_popcnt_epi64(_mm512_xor_si512(bits, column[c])));
          }
        }
      }
    }
  }
}

/// One register tile: ROWS output pixels x BLOCKS blocks of eight channels, all NQ x MP planes of each.
template <int NQ, int MP, int ROWS, int BLOCKS>
void tile(const Job& job, const Rows& rows, const Columns& columns, int64_t row, int64_t count) {
  constexpr int VR = ROWS * NQ, VC = BLOCKS * MP;
  static_assert(ROWS <= SLACK, "a tile must not read past the table of rows");
  const uint64_t* a[VR];
  UNROLL for (int r = 0; r < ROWS; ++r) {
    UNROLL for (int q = 0; q < NQ; ++q) a[r * NQ + q] = rows.a[row + r] + columns.a_offset + q * job.window.plane_step;
  }
  __m512i acc[VR][VC];
  accumulate<VR, MP, BLOCKS>(job, a, columns.w, acc);

  const float* alpha = job.args->alpha + job.p0 * job.channels + columns.channel;
  UNROLL for (int r = 0; r < ROWS; ++r) {
    if (r >= count) continue;
    float* dst = job.args->dst + (job.args->row_begin + row + r) * job.channels + columns.channel;
    const float* base = job.first ? rows.base[row + r] + columns.channel : dst;
    UNROLL for (int b = 0; b + 1 < BLOCKS; b += 2) {
      const __mmask16 lanes = (__mmask16)((b + 2 < BLOCKS ? 0xff00 : columns.last << 8) | 0xff);
      store_two<NQ, MP, VC>(job, &acc[r * NQ], b, lanes, alpha + b * LANES, base + b * LANES, dst + b * LANES);
    }
    if (BLOCKS % 2) {
      constexpr int b = BLOCKS - 1;
      store_one<NQ, MP, VC>(job, &acc[r * NQ], b, columns.last, alpha + b * LANES, base + b * LANES, dst + b * LANES);
    }
  }
}

typedef void (*Tile)(const Job& job, const Rows& rows, const Columns& columns, int64_t row, int64_t count);

/// The tiles of one number of planes: about 24 accumulators, and thinner ones for the ends.
struct Tiles {
  int rows, blocks;
  int narrow_rows;    ///< rows of the tile of one block
  int thin_blocks;    ///< blocks of the tile of one row, for batches of one or two rows
  Tile full, narrow;  ///< rows x blocks, narrow_rows x 1
  Tile line, single;  ///< 1 x blocks, 1 x 1
  Tile thin;          ///< 1 x thin_blocks
};

template <int NQ, int MP, int ROWS, int BLOCKS, int NARROW_ROWS, int THIN_BLOCKS>
constexpr Tiles tiles() {
  return Tiles{ROWS, BLOCKS, NARROW_ROWS, THIN_BLOCKS,
               tile<NQ, MP, ROWS, BLOCKS>, tile<NQ, MP, NARROW_ROWS, 1>,
               tile<NQ, MP, 1, BLOCKS>, tile<NQ, MP, 1, 1>, tile<NQ, MP, 1, THIN_BLOCKS>};
}

const Tiles TILES[4][4] = {
    {tiles<1, 1, 6, 4, 12, 8>(), tiles<1, 2, 6, 2, 12, 4>(), tiles<1, 3, 4, 2, 8, 4>(), tiles<1, 4, 6, 1, 6, 2>()},
    {tiles<2, 1, 3, 4, 12, 8>(), tiles<2, 2, 3, 2, 6, 4>(), tiles<2, 3, 4, 1, 4, 2>(), tiles<2, 4, 3, 1, 3, 2>()},
    {tiles<3, 1, 4, 2, 8, 4>(), tiles<3, 2, 4, 1, 4, 2>(), tiles<3, 3, 3, 1, 3, 2>(), tiles<3, 4, 2, 1, 2, 2>()},
    {tiles<4, 1, 3, 2, 6, 4>(), tiles<4, 2, 3, 1, 3, 2>(), tiles<4, 3, 2, 1, 2, 2>(), tiles<4, 4, 1, 1, 1, 1>()},
};

/// Rows [begin, end) of the table against the `blocks` blocks from `index` on. The last rows go through the full tile if
/// they fill at least half of it, else one by one.
void stream_rows(const Job& job, const Rows& rows, int64_t begin, int64_t end, int64_t index, int64_t blocks,
                 int64_t step, Tile full, Tile line) {
  const Columns columns = columns_of(job, index, blocks);
  int64_t row = begin;
  for (; row + step <= end; row += step) full(job, rows, columns, row, step);
  if (2 * (end - row) >= step) {
    full(job, rows, columns, row, end - row);
    return;
  }
  for (; row < end; ++row) line(job, rows, columns, row, 1);
}

/// Rows against all the blocks asked for: the weights of a column group stay in the first cache while the rows stream
/// past. A group of columns never crosses a convolution group.
void stream_blocks(const Job& job, const Rows& rows, int64_t begin, int64_t end, const Tiles& tiles) {
  const abcfx_bgemm_args& args = *job.args;
  const int64_t count = end - begin;
  const bool thin = 2 * count < tiles.rows || count == 1;
  int64_t block = args.block_begin;
  while (block < args.block_end) {
    const int64_t last = group_end(args, block);
    for (; thin && block + tiles.thin_blocks <= last; block += tiles.thin_blocks) {
      stream_rows(job, rows, begin, end, block, tiles.thin_blocks, 1, tiles.thin, tiles.thin);
    }
    for (; block + tiles.blocks <= last; block += tiles.blocks) {
      stream_rows(job, rows, begin, end, block, tiles.blocks, tiles.rows, tiles.full, tiles.line);
    }
    for (; block < last; ++block) {
      stream_rows(job, rows, begin, end, block, 1, tiles.narrow_rows, tiles.narrow, tiles.single);
    }
  }
}

/// Rows [begin, end) with activation planes q0 to q0 + nq - 1 and all weight planes, four of these at a time.
void stream_basic(Job& job, const Rows& rows, int64_t begin, int64_t end, int64_t nq) {
  const int64_t bases = job.args->weight_bases;
  for (job.p0 = 0; job.p0 < bases; job.p0 += 4) {
    const int64_t mp = bases - job.p0 < 4 ? bases - job.p0 : 4;
    job.first = job.q0 == 0 && job.p0 == 0;
    stream_blocks(job, rows, begin, end, TILES[nq - 1][mp - 1]);
  }
}

}  // namespace
