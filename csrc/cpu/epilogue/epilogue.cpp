#include "abcfx/epilogue.h"

#include "../variants.h"

extern "C" {
#define ABCFX_KERNEL(name, needs) int abcfx_epilogue_##name(const struct abcfx_epilogue_args* args);
#include "kernels.inc"
#undef ABCFX_KERNEL
}

namespace {

const Variant<abcfx_epilogue_fn> list[] = {
#define ABCFX_KERNEL(name, needs) {#name, needs, abcfx_epilogue_##name},
#include "kernels.inc"
#undef ABCFX_KERNEL
};
const Variants variants{list};

const Variant<abcfx_epilogue_fn>* chosen() {
  static const auto* best = variants.best();
  return best;
}

}  // namespace

abcfx_epilogue_fn abcfx_epilogue_choose(void) { return chosen()->fn; }
const char* abcfx_epilogue_chosen_name(void) { return chosen()->name; }
abcfx_epilogue_fn abcfx_epilogue_find(const char* name) { return variants.find(name); }
const char* abcfx_epilogue_variant(int index) { return variants.name(index); }
const char* abcfx_epilogue_missing(int index) { return variants.missing(index); }
