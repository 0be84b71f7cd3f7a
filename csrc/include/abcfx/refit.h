#pragma once
#include <stdint.h>

#include "abcfx/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/// One or a few alternations of  minimize over alpha, B  || w - sum_p alpha_p B_p ||^2  from known scales, per row:
///
///   B     = codes of the nearest of the 2^bases levels sum_p +-alpha_p; a tie takes the upper level
///   alpha = the least-squares scales of B, of least norm where bases repeat
///
/// `coded`: only scales alpha_p = 2^p alpha_0 are looked for, so that sum_p alpha_p B_p is alpha_0 times an odd integer;
/// `start` must be of that form.
///
/// Neither step raises the error, so the result is never worse than the scales it starts from. `dst` and `alpha` belong
/// together: the scales are the least-squares ones of the bases.
///
/// src    f32, value (o, t, c) at o*stride_row + t*stride_tap + c*stride_channel
/// start  f32 [bases][rows]                    scales to start from, any order and sign
/// dst    int8, -1 or +1 [bases][rows][taps][channels]
/// alpha  f32 [bases][rows]
/// error  f64 [rows]  || w - sum_p alpha_p B_p ||^2        power  f64 [rows]  || w ||^2
///        both NaN or infinite where a weight is, or where its square is past f32
/// Sums are f32 over 16 values, then f64; the equations are solved in f64. All variants give the same bits.
/// scratch: abcfx_refit_scratch_bytes, aligned to 64.
/// Works on rows [row_begin, row_end): callers own the threads.
struct abcfx_refit_args {
  const float* src;
  const float* start;
  int8_t* dst;
  float* alpha;
  double* error;
  double* power;
  void* scratch;
  int64_t bases;  ///< 1 to 8
  int64_t rows, taps, channels;
  int64_t stride_row, stride_tap, stride_channel;
  int64_t alternations;  ///< at least 1
  int64_t coded;         ///< 1: scales that double
  int64_t row_begin, row_end;
};

typedef int (*abcfx_refit_fn)(const struct abcfx_refit_args* args);

ABCFX_API int64_t abcfx_refit_scratch_bytes(const struct abcfx_refit_args* args);

/// As in abcfx/bgemm.h.
ABCFX_API abcfx_refit_fn abcfx_refit_choose(void);
ABCFX_API abcfx_refit_fn abcfx_refit_find(const char* name);
ABCFX_API const char* abcfx_refit_chosen_name(void);
ABCFX_API const char* abcfx_refit_variant(int index);
ABCFX_API const char* abcfx_refit_missing(int index);

/// out[o][c][t] = sum_p alpha[p][o] * bases[p][o][t][c], summed in f32 in the order of p, and
/// tap_sums[o][t] = sum_c out[o][c][t], from integer sums of the bases.
///
/// bases  int8, -1 or +1 [bases][rows][taps][channels]        alpha  f32 [bases][rows]
/// out    f32 [rows][channels][taps]: a weight as a convolution stores it        tap_sums  f32 [rows][taps]
/// Works on rows [row_begin, row_end): callers own the threads.
struct abcfx_dequantize_args {
  const int8_t* src;
  const float* alpha;
  float* out;
  float* tap_sums;
  int64_t bases, rows, taps, channels;
  int64_t row_begin, row_end;
};

ABCFX_API int abcfx_dequantize_rows(const struct abcfx_dequantize_args* args);

/// Scales of a fit from scratch: alternations from several starts for 2, 3, … `bases` scales, each count beginning with
/// the one before (abcfx/quant/alternating.py). Then one alternation of abcfx_refit_fn gives the bases.
/// `coded`: from uniform planes alone, for scales that double.
///
/// sorted  f32 [rows][depth], each row ascending        prefix  f64 [rows][depth + 1], sums of the smallest 0, 1, …
/// rms     f64 [rows]                                   scales  f64 [rows][bases]
/// Works on rows [row_begin, row_end): callers own the threads.
struct abcfx_search_args {
  const float* sorted;
  const double* prefix;
  const double* rms;
  double* scales;
  int64_t bases;  ///< 1 to 8
  int64_t coded;  ///< 1: scales that double
  int64_t rows, depth;
  int64_t row_begin, row_end;
};

ABCFX_API int abcfx_search_rows(const struct abcfx_search_args* args);

/// Uniform levels step*k + origin, k = 0 .. top, of one row of samples, by alternation from each of `rows` starts:
///
///   k      = the code of the nearest level; a sample halfway takes the upper one
///   line   = the least-squares line through (k, sample); through 0 if `anchored`
///
/// until no code changes, `alternations` times at most (abcfx/quant/fit_coded.py).
///
/// sorted  f32 [depth], ascending         prefix  f64 [depth + 1], sums of the smallest 0, 1, …
/// start   f64 [rows][2], step and origin        lines  f64 [rows][2]
/// error   f64 [rows], squared error less the constant sum of squares
/// Works on starts [row_begin, row_end): callers own the threads.
struct abcfx_lines_args {
  const float* sorted;
  const double* prefix;
  const double* start;
  double* lines;
  double* error;
  int64_t top;  ///< 1 to 255
  int64_t anchored;
  int64_t alternations;  ///< at least 1
  int64_t depth, rows;
  int64_t row_begin, row_end;
};

ABCFX_API int abcfx_fit_lines(const struct abcfx_lines_args* args);

#ifdef __cplusplus
}
#endif
