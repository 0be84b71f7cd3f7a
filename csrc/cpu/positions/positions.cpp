#include "abcfx/positions.h"

#include "../variants.h"

extern "C" {
#define ABCFX_KERNEL(name, needs) int abcfx_positions_##name(const struct abcfx_positions_args* args);
#include "kernels.inc"
#undef ABCFX_KERNEL
}

namespace {

const Variant<abcfx_positions_fn> list[] = {
#define ABCFX_KERNEL(name, needs) {#name, needs, abcfx_positions_##name},
#include "kernels.inc"
#undef ABCFX_KERNEL
};
const Variants variants{list};

const Variant<abcfx_positions_fn>* chosen() {
  static const auto* best = variants.best();
  return best;
}

}  // namespace

abcfx_positions_fn abcfx_positions_choose(void) { return chosen()->fn; }
const char* abcfx_positions_chosen_name(void) { return chosen()->name; }
abcfx_positions_fn abcfx_positions_find(const char* name) { return variants.find(name); }
const char* abcfx_positions_variant(int index) { return variants.name(index); }
const char* abcfx_positions_missing(int index) { return variants.missing(index); }
