#pragma once
#include <math.h>
#include <stdint.h>

#include "abcfx/status.h"

// The normal equations (BᵀB) alpha = Bᵀw of one row: at most 8 unknowns, f64. Both sides are divided by the depth, so
// that the diagonal is 1 and eigenvalues are 0 or at least about 1 / depth.
namespace {

constexpr double RANK_TOLERANCE = 1e-10;  // as in abcfx/quant/alternating.py: rounding leaves 1e-15 where 0 is meant

struct Normal {
  int n;
  double gram[ABCFX_MAX_BASES][ABCFX_MAX_BASES];
  double moment[ABCFX_MAX_BASES];
};

/// Cholesky. False, with nothing written, if a pivot says that bases depend on each other.
inline bool solve_regular(const Normal& eq, double alpha[ABCFX_MAX_BASES]) {
  double low[ABCFX_MAX_BASES][ABCFX_MAX_BASES], y[ABCFX_MAX_BASES];
  for (int i = 0; i < eq.n; ++i) {
    for (int j = 0; j <= i; ++j) {
      double rest = eq.gram[i][j];
      for (int k = 0; k < j; ++k) rest -= low[i][k] * low[j][k];
      if (i == j && !(rest > RANK_TOLERANCE * eq.n)) return false;
      low[i][j] = i == j ? sqrt(rest) : rest / low[j][j];
    }
  }
  for (int i = 0; i < eq.n; ++i) {
    y[i] = eq.moment[i];
    for (int k = 0; k < i; ++k) y[i] -= low[i][k] * y[k];
    y[i] /= low[i][i];
  }
  for (int i = eq.n - 1; i >= 0; --i) {
    alpha[i] = y[i];
    for (int k = i + 1; k < eq.n; ++k) alpha[i] -= low[k][i] * alpha[k];
    alpha[i] /= low[i][i];
  }
  return true;
}

/// Turns a and the vectors by the angle that makes a[p][q] zero.
inline void rotate(int n, double a[][ABCFX_MAX_BASES], double v[][ABCFX_MAX_BASES], int p, int q) {
  if (a[p][q] == 0.0) return;
  const double theta = (a[q][q] - a[p][p]) / (2 * a[p][q]);
  const double t = (theta < 0 ? -1.0 : 1.0) / (fabs(theta) + sqrt(theta * theta + 1));
  const double c = 1 / sqrt(t * t + 1), s = t * c;
  for (int k = 0; k < n; ++k) {
    const double kp = a[k][p], kq = a[k][q];
    a[k][p] = c * kp - s * kq;
    a[k][q] = s * kp + c * kq;
  }
  for (int k = 0; k < n; ++k) {
    const double pk = a[p][k], qk = a[q][k];
    a[p][k] = c * pk - s * qk;
    a[q][k] = s * pk + c * qk;
    const double vp = v[k][p], vq = v[k][q];
    v[k][p] = c * vp - s * vq;
    v[k][q] = s * vp + c * vq;
  }
}

/// The solution of least norm, from eigenvalues and vectors by Jacobi rotations.
inline void solve_singular(const Normal& eq, double alpha[ABCFX_MAX_BASES]) {
  double a[ABCFX_MAX_BASES][ABCFX_MAX_BASES], v[ABCFX_MAX_BASES][ABCFX_MAX_BASES];
  for (int i = 0; i < eq.n; ++i) {
    for (int j = 0; j < eq.n; ++j) {
      a[i][j] = eq.gram[i][j];
      v[i][j] = i == j;
    }
    alpha[i] = 0;
  }
  for (int sweep = 0; sweep < 16; ++sweep) {  // converges quadratically: 8 x 8 takes about 6
    for (int p = 0; p < eq.n; ++p) {
      for (int q = p + 1; q < eq.n; ++q) rotate(eq.n, a, v, p, q);
    }
  }
  double largest = 0;
  for (int i = 0; i < eq.n; ++i) largest = fmax(largest, fabs(a[i][i]));
  for (int i = 0; i < eq.n; ++i) {
    if (!(fabs(a[i][i]) > RANK_TOLERANCE * largest)) continue;
    double along = 0;
    for (int k = 0; k < eq.n; ++k) along += v[k][i] * eq.moment[k];
    for (int k = 0; k < eq.n; ++k) alpha[k] += v[k][i] * along / a[i][i];
  }
}

/// alpha[p] = step * 2^p of the best step: one unknown, (uᵀ BᵀB u) step = uᵀ Bᵀw with u[p] = 2^p. Sums of odd multiples of
/// +-1 are never 0, so that there always is one.
inline void solve_coded(const Normal& eq, double alpha[ABCFX_MAX_BASES]) {
  double square = 0, along = 0;
  for (int p = 0; p < eq.n; ++p) {
    along += eq.moment[p] * (1 << p);
    for (int q = 0; q < eq.n; ++q) square += eq.gram[p][q] * (1 << (p + q));
  }
  for (int p = 0; p < eq.n; ++p) alpha[p] = along / square * (1 << p);
}

inline void solve(const Normal& eq, bool coded, double alpha[ABCFX_MAX_BASES]) {
  if (coded) return solve_coded(eq, alpha);
  if (!solve_regular(eq, alpha)) solve_singular(eq, alpha);
}

}  // namespace
