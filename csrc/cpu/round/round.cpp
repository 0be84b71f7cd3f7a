#include "abcfx/round.h"

#include "../variants.h"

extern "C" {
#define ABCFX_KERNEL(name, needs) int abcfx_round_##name(const struct abcfx_round_args* args);
#include "kernels.inc"
#undef ABCFX_KERNEL
}

namespace {

const Variant<abcfx_round_fn> list[] = {
#define ABCFX_KERNEL(name, needs) {#name, needs, abcfx_round_##name},
#include "kernels.inc"
#undef ABCFX_KERNEL
};
const Variants variants{list};

const Variant<abcfx_round_fn>* chosen() {
  static const auto* best = variants.best();
  return best;
}

}  // namespace

abcfx_round_fn abcfx_round_choose(void) { return chosen()->fn; }
const char* abcfx_round_chosen_name(void) { return chosen()->name; }
abcfx_round_fn abcfx_round_find(const char* name) { return variants.find(name); }
const char* abcfx_round_variant(int index) { return variants.name(index); }
const char* abcfx_round_missing(int index) { return variants.missing(index); }
