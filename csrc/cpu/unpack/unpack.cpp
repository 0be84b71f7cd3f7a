#include "abcfx/unpack.h"

#include "../variants.h"

extern "C" {
#define ABCFX_KERNEL(name, needs) int abcfx_unpack_##name(const struct abcfx_unpack_args* args);
#include "kernels.inc"
#undef ABCFX_KERNEL
}

namespace {

const Variant<abcfx_unpack_fn> list[] = {
#define ABCFX_KERNEL(name, needs) {#name, needs, abcfx_unpack_##name},
#include "kernels.inc"
#undef ABCFX_KERNEL
};
const Variants variants{list};

const Variant<abcfx_unpack_fn>* chosen() {
  static const auto* best = variants.best();
  return best;
}

}  // namespace

abcfx_unpack_fn abcfx_unpack_choose(void) { return chosen()->fn; }
const char* abcfx_unpack_chosen_name(void) { return chosen()->name; }
abcfx_unpack_fn abcfx_unpack_find(const char* name) { return variants.find(name); }
const char* abcfx_unpack_variant(int index) { return variants.name(index); }
const char* abcfx_unpack_missing(int index) { return variants.missing(index); }
