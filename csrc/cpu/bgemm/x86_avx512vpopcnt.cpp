// AVX-512 with VPOPCNTDQ: the basic kernel for short windows and few rows, carry save for the rest. Both make the same
// integers and the same sequence of f32 operations, so the result does not depend on which of them made it.
#include "x86_avx512_basic.h"
#include "x86_avx512_carrysave.h"

namespace {

enum Path { CHOOSE, BASIC, CARRY_SAVE };  ///< the last two wherever they can run: for tests

/// Rows [0, count) of the table with every plane, four activation planes at a time. The rows that fill less than half a
/// carry-save tile are left to the basic kernel.
void stream_planes(Job& job, const Rows& rows, int64_t count, Path path) {
  const abcfx_bgemm_args& args = *job.args;
  for (job.q0 = 0; job.q0 < args.activation_bases; job.q0 += 4) {
    const int64_t nq = args.activation_bases - job.q0 < 4 ? args.activation_bases - job.q0 : 4;
    job.start = 0.0f;
    for (int64_t q = 0; q < nq; ++q) job.start += (float)(args.depth & 3) * args.beta[job.q0 + q];
    const int64_t fit = path == BASIC ? 0 : carry_save_rows(job, nq, count, path == CARRY_SAVE);
    if (fit > 0) stream_carry_save(job, rows, fit, nq);
    if (fit < count) stream_basic(job, rows, fit, count, nq);
  }
}

Job job_of(const abcfx_bgemm_args& args) {
  Job job = {};
  job.args = &args;
  job.window = window_of(args);
  job.channels = args.groups * args.cols;
  job.quarter = args.depth >> 2;
  for (int64_t q = 0; q < args.activation_bases; ++q) job.minus2beta[q] = -2.0f * args.beta[q];
  return job;
}

int multiply(const abcfx_bgemm_args* args, Path path) {
  if (!valid(*args)) return ABCFX_BAD_SHAPE;
  if (args->row_begin >= args->row_end || args->block_begin >= args->block_end) return ABCFX_OK;
  abcfx_bgemm_args part = *args;
  Job job = job_of(part);
  Rows rows;
  Cursor cursor = cursor_at(*args, args->row_begin);
  for (int64_t begin = args->row_begin; begin < args->row_end; begin += CHUNK) {
    const int64_t left = args->row_end - begin, count = left < CHUNK ? left : CHUNK;
    for (int64_t r = 0; r < count; ++r, advance(*args, cursor)) {
      rows.a[r] = window_base(*args, cursor);
      rows.base[r] = base_of(*args, cursor);
    }
    for (int64_t r = count; r < count + SLACK; ++r) {
      rows.a[r] = rows.a[count - 1];
      rows.base[r] = rows.base[count - 1];
    }
    part.row_begin = begin;
    stream_planes(job, rows, count, path);
  }
  return ABCFX_OK;
}

}  // namespace

extern "C" int abcfx_bgemm_avx512vpopcnt(const abcfx_bgemm_args* args) { return multiply(args, CHOOSE); }

// Not in the list: they let a test run each kernel at every size, and see which one is chosen for `rows` rows.
extern "C" int abcfx_bgemm_avx512vpopcnt_basic(const abcfx_bgemm_args* args) { return multiply(args, BASIC); }
extern "C" int abcfx_bgemm_avx512vpopcnt_carrysave(const abcfx_bgemm_args* args) { return multiply(args, CARRY_SAVE); }
extern "C" int64_t abcfx_bgemm_avx512vpopcnt_carrysave_rows(const abcfx_bgemm_args* args, int64_t rows) {
  return carry_save_rows(job_of(*args), args->activation_bases < 4 ? args->activation_bases : 4, rows, false);
}
