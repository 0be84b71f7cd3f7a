#include "abcfx/adjoint.h"

#include <math.h>

#include "../variants.h"
#include "walk.h"

extern "C" {
#define ABCFX_KERNEL(name, needs) int abcfx_adjoint_##name(const struct abcfx_adjoint_args* args);
#include "kernels.inc"
#undef ABCFX_KERNEL
}

namespace {

const Variant<abcfx_adjoint_fn> list[] = {
#define ABCFX_KERNEL(name, needs) {#name, needs, abcfx_adjoint_##name},
#include "kernels.inc"
#undef ABCFX_KERNEL
};
const Variants variants{list};

const Variant<abcfx_adjoint_fn>* chosen() {
  static const auto* best = variants.best();
  return best;
}

}  // namespace

abcfx_adjoint_fn abcfx_adjoint_choose(void) { return chosen()->fn; }
const char* abcfx_adjoint_chosen_name(void) { return chosen()->name; }
abcfx_adjoint_fn abcfx_adjoint_find(const char* name) { return variants.find(name); }
const char* abcfx_adjoint_variant(int index) { return variants.name(index); }
const char* abcfx_adjoint_missing(int index) { return variants.missing(index); }

int abcfx_adjoint_finish(const abcfx_adjoint_args* args, float* dscale, float* dshift) {
  if (!valid(*args)) return ABCFX_BAD_SHAPE;
  const bool coded = args->levels == ABCFX_CODED;
  const int64_t entries = coded ? 1 : args->planes, row = 2 * entries;
  double total[2 * ABCFX_MAX_BASES] = {};
  for (int64_t chunk = 0; chunk < chunks_of(*args); ++chunk) {
    for (int64_t i = 0; i < row; ++i) total[i] += args->sums[chunk * row + i];
  }
  const double terms = (double)(args->count > 0 ? args->count : 1) * (double)((1 << args->planes) - 1);
  const double rate = 1.0 / sqrt(terms);
  for (int64_t q = 0; q < entries; ++q) {
    dscale[q] = (float)(coded ? total[q] * rate : total[q]);
    dshift[q] = (float)(total[entries + q] * (coded ? rate : (double)args->scale[q]));
  }
  return ABCFX_OK;
}
