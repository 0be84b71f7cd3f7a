#include "abcfx/refit.h"

#include "../variants.h"

extern "C" {
#define ABCFX_KERNEL(name, needs) int abcfx_refit_##name(const struct abcfx_refit_args* args);
#include "kernels.inc"
#undef ABCFX_KERNEL
}

namespace {

const Variant<abcfx_refit_fn> list[] = {
#define ABCFX_KERNEL(name, needs) {#name, needs, abcfx_refit_##name},
#include "kernels.inc"
#undef ABCFX_KERNEL
};
const Variants variants{list};

const Variant<abcfx_refit_fn>* chosen() {
  static const auto* best = variants.best();
  return best;
}

}  // namespace

abcfx_refit_fn abcfx_refit_choose(void) { return chosen()->fn; }
const char* abcfx_refit_chosen_name(void) { return chosen()->name; }
abcfx_refit_fn abcfx_refit_find(const char* name) { return variants.find(name); }
const char* abcfx_refit_variant(int index) { return variants.name(index); }
const char* abcfx_refit_missing(int index) { return variants.missing(index); }

/// A row of values and of codes, and room to fill up both to whole vectors.
int64_t abcfx_refit_scratch_bytes(const struct abcfx_refit_args* args) {
  const int64_t depth = args->taps * args->channels;
  return 5 * ((depth + 63) / 64 * 64);
}
