#pragma once
#include <string.h>

#include "abcfx/refit.h"
#include "solve.h"

// The levels are symmetric about 0, so only the upper half counts: |w| lies in one of 2^(M-1) cells, and the code of a
// negative weight is the complement of that of |w|. A code is found by toggling bits at every edge that |w| has passed:
//
//   code(w) = code[0] ^ XOR_e (|w| >= edge[e] ? code[e] ^ code[e + 1] : 0) ^ (w < 0 ? 2^M - 1 : 0)
//
// The normal equations need only the counts and sums of the cells, differences of those past each edge:
//
//   (BᵀB)_pq = sum_cells count * s_p * s_q,   (Bᵀw)_p = sum_cells sum|w| * s_p,   s_p = +-1 = bit p of the cell's code
//
// Included by one file per instruction set; everything is local to it.
namespace {

constexpr int LANES = 8;
constexpr int64_t FLUSH = 16;  ///< vectors summed in f32 before they go to f64: 15 roundings of 2^-24
typedef float F __attribute__((vector_size(4 * LANES)));
typedef int32_t I __attribute__((vector_size(4 * LANES)));
typedef double D __attribute__((vector_size(8 * LANES)));
typedef uint8_t Bytes __attribute__((vector_size(LANES)));

inline double total(const D& lanes) {
  double sum = 0;
  for (int i = 0; i < LANES; ++i) sum += lanes[i];
  return sum;
}

template <int M>
struct Row {
  static constexpr int CELLS = 1 << (M - 1), EDGES = CELLS - 1, ALL = (1 << M) - 1;
  float edge[EDGES + 1];  // one more: no array is empty
  int32_t code[CELLS];
  D sums[EDGES + 1], squares;  // sums[0]: all |w|; sums[e + 1]: those past edge e
  int64_t counts[EDGES + 1];

  /// Cells around the levels of these scales. Each scale doubles the levels: two sorted lists are merged, at a tie the
  /// smaller code first. No function of the standard library: its copy made here would serve other files too.
  void set_levels(const double* alpha) {
    double level[ALL + 1] = {}, merged[ALL + 1];
    uint8_t order[ALL + 1] = {}, codes[ALL + 1];
    for (int p = 0; p < M; ++p) {
      const int n = 1 << p;
      for (int i = 0, j = 0; i + j < 2 * n;) {
        const int k = i + j;
        const bool minus = j == n || (i < n && level[i] - alpha[p] <= level[j] + alpha[p]);
        merged[k] = minus ? level[i] - alpha[p] : level[j] + alpha[p];
        codes[k] = minus ? order[i++] : (uint8_t)(order[j++] | n);
      }
      memcpy(level, merged, sizeof(double) * 2 * n);
      memcpy(order, codes, 2 * n);
    }
    for (int i = 0; i < CELLS; ++i) {
      code[i] = order[CELLS + i];
      if (i > 0) edge[i - 1] = (float)((level[CELLS + i] + level[CELLS + i - 1]) / 2);
    }
  }

  /// Codes and sums of up to LANES values.
  void vector(const float* src, uint8_t* codes, const I& valid, F* sum, F& square, I* count) const {
    F x;
    memcpy(&x, src, sizeof(x));
    const I negative = x < 0.0f, magnitude = (I)x & 0x7fffffff;
    square += x * x;
    sum[0] += (F)magnitude;
    I found = negative & ALL;
    found ^= code[0];
    for (int e = 0; e < EDGES; ++e) {
      const I past = ((x >= edge[e]) | (x < -edge[e])) & valid;  // a tie takes the upper level, on both sides of 0
      found ^= past & (code[e] ^ code[e + 1]);
      sum[e + 1] += (F)(magnitude & past);
      count[e] -= past;
    }
    const Bytes narrow = __builtin_convertvector(found, Bytes);
    memcpy(codes, &narrow, sizeof(narrow));
  }

  /// Codes of all values, and the sums of the cells. `src` and `codes` are filled up to whole vectors, `src` with 0.
  void pass(const float* src, uint8_t* codes, int64_t depth) {
    const I all = I{} - 1, lane = {0, 1, 2, 3, 4, 5, 6, 7};
    I count[EDGES + 1] = {};
    for (D& sum : sums) sum = D{};
    squares = D{};
    for (int64_t begin = 0; begin < depth; begin += FLUSH * LANES) {
      const int64_t end = begin + FLUSH * LANES < depth ? begin + FLUSH * LANES : depth;
      F sum[EDGES + 1] = {}, square = {};
      int64_t k = begin;
      for (; k + LANES <= end; k += LANES) vector(src + k, codes + k, all, sum, square, count);
      if (k < end) vector(src + k, codes + k, lane < (int32_t)(end - k), sum, square, count);
      for (int e = 0; e <= EDGES; ++e) sums[e] += __builtin_convertvector(sum[e], D);
      squares += __builtin_convertvector(square, D);
    }
    for (int e = 0; e < EDGES; ++e) {
      counts[e] = 0;
      for (int i = 0; i < LANES; ++i) counts[e] += count[e][i];
    }
  }

  /// The scales for the codes of the last pass; returns what they explain of the power.
  double fit(int64_t depth, bool coded, double* alpha) const {
    Normal eq = {};
    eq.n = M;
    for (int i = 0; i < CELLS; ++i) {
      const double above = i < EDGES ? (double)counts[i] : 0, past = i < EDGES ? total(sums[i + 1]) : 0;
      const double share = ((i ? (double)counts[i - 1] : (double)depth) - above) / (double)depth;
      const double mean = (total(sums[i]) - past) / (double)depth;
      for (int p = 0; p < M; ++p) {
        const double sign = code[i] >> p & 1 ? 1 : -1;
        eq.moment[p] += sign * mean;
        for (int q = 0; q < M; ++q) eq.gram[p][q] += code[i] >> q & 1 ? sign * share : -sign * share;
      }
    }
    solve(eq, coded, alpha);
    double explained = 0;
    for (int p = 0; p < M; ++p) explained += alpha[p] * eq.moment[p];
    return explained * (double)depth;
  }
};

/// Row o as contiguous values [taps][channels], filled up with 0 to whole vectors.
inline void gather(const abcfx_refit_args& args, int64_t o, float* row) {
  const float* src = args.src + o * args.stride_row;
  float* out = row;
  for (int64_t t = 0; t < args.taps; ++t) {
    const float* tap = src + t * args.stride_tap;
    for (int64_t c = 0; c < args.channels; ++c) *out++ = tap[c * args.stride_channel];
  }
  for (const float* end = row + (args.taps * args.channels + 63) / 64 * 64; out < end;) *out++ = 0.0f;
}

template <int M>
void refit_rows(const abcfx_refit_args& args) {
  const int64_t depth = args.taps * args.channels;
  float* values = (float*)args.scratch;
  uint8_t* codes = (uint8_t*)(values + (depth + 63) / 64 * 64);
  Row<M> row = {};
  for (int64_t o = args.row_begin; o < args.row_end; ++o) {
    gather(args, o, values);
    double alpha[M], explained = 0;
    for (int p = 0; p < M; ++p) alpha[p] = args.start[p * args.rows + o];
    for (int64_t step = 0; step < args.alternations; ++step) {
      row.set_levels(alpha);
      row.pass(values, codes, depth);
      explained = row.fit(depth, args.coded != 0, alpha);
    }
    args.power[o] = total(row.squares);
    const double error = args.power[o] - explained;
    args.error[o] = error < 0 ? 0 : error;  // below 0 by rounding only; a NaN stays
    for (int p = 0; p < M; ++p) {
      args.alpha[p * args.rows + o] = (float)alpha[p];
      int8_t* dst = args.dst + (p * args.rows + o) * depth;
      for (int64_t k = 0; k < depth; ++k) dst[k] = (int8_t)((codes[k] >> p & 1) * 2 - 1);
    }
  }
}

inline int refit(const abcfx_refit_args* args) {
  static constexpr void (*rows[])(const abcfx_refit_args&) = {
      refit_rows<1>, refit_rows<2>, refit_rows<3>, refit_rows<4>,
      refit_rows<5>, refit_rows<6>, refit_rows<7>, refit_rows<8>,
  };
  if (args->bases < 1 || args->bases > ABCFX_MAX_BASES || args->taps < 1 || args->channels < 1 ||
      args->alternations < 1 || args->row_begin < 0 || args->row_end > args->rows) {
    return ABCFX_BAD_SHAPE;
  }
  rows[args->bases - 1](*args);
  return ABCFX_OK;
}

}  // namespace
