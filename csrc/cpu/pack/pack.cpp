#include "abcfx/pack.h"

#include "../variants.h"

extern "C" {
#define ABCFX_KERNEL(name, needs) int abcfx_pack_##name(const struct abcfx_pack_args* args);
#include "kernels.inc"
#undef ABCFX_KERNEL
}

namespace {

const Variant<abcfx_pack_fn> list[] = {
#define ABCFX_KERNEL(name, needs) {#name, needs, abcfx_pack_##name},
#include "kernels.inc"
#undef ABCFX_KERNEL
};
const Variants variants{list};

const Variant<abcfx_pack_fn>* chosen() {
  static const auto* best = variants.best();
  return best;
}

}  // namespace

abcfx_pack_fn abcfx_pack_choose(void) { return chosen()->fn; }
const char* abcfx_pack_chosen_name(void) { return chosen()->name; }
abcfx_pack_fn abcfx_pack_find(const char* name) { return variants.find(name); }
const char* abcfx_pack_variant(int index) { return variants.name(index); }
const char* abcfx_pack_missing(int index) { return variants.missing(index); }
