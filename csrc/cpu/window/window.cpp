#include "abcfx/window.h"

#include "../variants.h"

extern "C" {
#define ABCFX_KERNEL(name, needs) int abcfx_window_##name(const struct abcfx_window_args* args);
#include "kernels.inc"
#undef ABCFX_KERNEL
}

namespace {

const Variant<abcfx_window_fn> list[] = {
#define ABCFX_KERNEL(name, needs) {#name, needs, abcfx_window_##name},
#include "kernels.inc"
#undef ABCFX_KERNEL
};
const Variants variants{list};

const Variant<abcfx_window_fn>* chosen() {
  static const auto* best = variants.best();
  return best;
}

}  // namespace

abcfx_window_fn abcfx_window_choose(void) { return chosen()->fn; }
const char* abcfx_window_chosen_name(void) { return chosen()->name; }
abcfx_window_fn abcfx_window_find(const char* name) { return variants.find(name); }
const char* abcfx_window_variant(int index) { return variants.name(index); }
const char* abcfx_window_missing(int index) { return variants.missing(index); }
