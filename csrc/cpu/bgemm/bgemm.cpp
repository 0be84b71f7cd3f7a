#include "abcfx/bgemm.h"

#include "../variants.h"

extern "C" {
#define ABCFX_KERNEL(name, needs) int abcfx_bgemm_##name(const struct abcfx_bgemm_args* args);
#include "kernels.inc"
#undef ABCFX_KERNEL
}

namespace {

const Variant<abcfx_bgemm_fn> list[] = {
#define ABCFX_KERNEL(name, needs) {#name, needs, abcfx_bgemm_##name},
#include "kernels.inc"
#undef ABCFX_KERNEL
};
const Variants variants{list};

const Variant<abcfx_bgemm_fn>* chosen() {
  static const auto* best = variants.best();
  return best;
}

}  // namespace

abcfx_bgemm_fn abcfx_bgemm_choose(void) { return chosen()->fn; }
const char* abcfx_bgemm_chosen_name(void) { return chosen()->name; }
abcfx_bgemm_fn abcfx_bgemm_find(const char* name) { return variants.find(name); }
const char* abcfx_bgemm_variant(int index) { return variants.name(index); }
const char* abcfx_bgemm_missing(int index) { return variants.missing(index); }
